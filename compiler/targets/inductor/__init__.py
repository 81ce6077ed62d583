"""Target `inductor`: torch.export and AOTInductor. Compiles and runs on any CPU, and on CUDA where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from compiler.errors import RefusedError
from compiler.ir.config import ModelConfig
from compiler.ir.parallel import check_parallel
from compiler.targets import PLAIN, Need, TargetOptions
from compiler.targets.inductor.layout import layouts, rank_plans
from compiler.targets.inductor.segments import segment_names, specs

__all__ = ["check", "files", "layouts", "name", "needs", "rank_plans", "segment_names", "specs"]

name = "inductor"


def check(config: ModelConfig, tp: int = 1, options: TargetOptions = PLAIN) -> None:
    """Refuses options of other toolchains, and a tp that does not fit. What `read_config` accepts is computed."""
    if options != PLAIN:
        asked = ", ".join(f.name for f in fields(options) if getattr(options, f.name) != f.default)
        raise RefusedError(f"target `inductor` is split by tp alone; found {asked}", hint="Leave these options out.")
    check_parallel(config, tp)


def files(_config: ModelConfig, _tp: int, _dtype: str, _options: TargetOptions = PLAIN) -> Mapping[str, bytes]:
    """None: the manifest says what the runtime needs to know."""
    return {}


def needs(config: ModelConfig, _tp: int = 1, _options: TargetOptions = PLAIN) -> Sequence[Need]:
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
