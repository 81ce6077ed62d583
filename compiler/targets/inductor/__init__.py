"""Target `inductor`: torch.export and AOTInductor. Compiles and runs on any CPU, and on CUDA where there is one."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.ir.config import ModelConfig
from compiler.targets import Need
from compiler.targets.inductor.layout import layouts, rank_plans
from compiler.targets.inductor.segments import segment_names, specs

__all__ = ["check", "layouts", "name", "needs", "rank_plans", "segment_names", "specs"]

name = "inductor"


def check(config: ModelConfig) -> None:
    """Refuses nothing: what `read_config` accepts, the decoder computes."""


def needs(config: ModelConfig) -> Sequence[Need]:
    """A compile process holds torch, the graph of one segment and a C++ compiler; packages hold no weights."""
    kinds = set(config.layer_kinds)
    segments = 2 + len({kind.window for kind in kinds}) + len({kind.mlp for kind in kinds})
    return (
        Need(
            "compile",
            2 << 30,
            segments * 2 * (2 << 20),
            f"{segments} segments, prefill and decode; no weights",
        ),
    )
