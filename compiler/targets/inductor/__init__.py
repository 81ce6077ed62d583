"""Target `inductor`: torch.export and AOTInductor. Compiles and runs on any CPU, and on CUDA where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from compiler.decoder import segments
from compiler.decoder.rankfile import layout
from compiler.decoder.rankfile.layout import rank_file
from compiler.decoder.segments import SegmentSpec, segment_names
from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.model.limits import Limits
from compiler.model.parallel import check_parallel
from compiler.targets import PLAIN, Contents, Made, Need, Planned, TargetOptions
from compiler.targets.inductor.device import device
from compiler.targets.inductor.schemes import cache_of, kernels, products_of, quantised, scaling

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.artifact.manifest import Manifest
    from compiler.model.layout import Layout
    from compiler.model.lazy import Lazy, RankPlan
    from compiler.model.roles import TensorId

__all__ = [
    "check",
    "check_tokenizer",
    "command",
    "contents",
    "device",
    "elsewhere",
    "files",
    "judge_of",
    "kernels",
    "layouts",
    "name",
    "needs",
    "options_of",
    "problems",
    "quantised",
    "rank_folder",
    "rank_plans",
    "scaling",
    "specs",
    "stages",
]

name = "inductor"
stages = ("plan", "convert", "compile", "package", "verify")
judge_of = None
"""The runtime here runs what is compiled."""
elsewhere = None
"""Compiling needs nothing that a machine with torch has not."""


def check(config: ModelConfig, tp: int = 1, options: TargetOptions = PLAIN, _limits: Limits | None = None) -> None:
    """Refuses options of other toolchains, and a tp that does not fit. What `read_config` accepts is computed."""
    if replace(options, quant_algo="", kv_cache_quant_algo="") != PLAIN:
        asked = ", ".join(f.name for f in fields(options) if getattr(options, f.name) != f.default)
        raise RefusedError(f"target `inductor` is split by tp alone; found {asked}", hint="Leave these options out.")
    check_parallel(config, tp)


def layouts(config: ModelConfig, tp: int, _options: TargetOptions = PLAIN) -> Sequence[Layout]:
    """Those of the decoder's rank file."""
    return layout.layouts(config, tp)


def rank_plans(
    config: ModelConfig, tp: int, tensors: Mapping[TensorId, Lazy], dtype: str, options: TargetOptions = PLAIN
) -> Sequence[RankPlan]:
    """The decoder's rank files, with the products of `options`."""
    return layout.rank_plans(config, tp, tensors, dtype, products_of(options))


def files(_config: ModelConfig, _tp: int, _dtype: str, _options: TargetOptions = PLAIN) -> Mapping[str, bytes]:
    """None: the manifest says what the runtime needs to know."""
    return {}


def needs(config: ModelConfig, _tp: int = 1, _options: TargetOptions = PLAIN) -> Sequence[Need]:
    """A compile process holds torch, the graph of one segment and a C++ compiler; packages hold no weights."""
    kinds = set(config.layer_kinds)
    count = 2 + len({name for kind in kinds for name in segment_names(config, kind)})
    return (
        Need(
            "compile",
            2 << 30,
            count * 2 * (2 << 20),
            f"{count} segments, prefill and decode; no weights",
        ),
    )


def check_tokenizer(_plan: Planned, _names: Sequence[str]) -> None:
    """The runtime takes token ids too."""


def command(_plan: Planned) -> Sequence[str]:
    """Processes of our own compile."""
    return ()


def specs(plan: Planned, _source: str) -> Sequence[SegmentSpec]:
    """One spec a package. Neither weights nor the number of layers decide one."""
    return segments.specs(
        plan.config, plan.tp, plan.dtype, plan.limits, products_of(plan.options), cache_of(plan.options)
    )


def contents(plan: Planned, made: Made) -> Contents:
    """Rank files, packages, tokenizer."""
    from compiler.artifact.sections import Segments

    packages = {name: f"packages/{part.name}" for name, (part,) in made.compiled.items()}
    return Contents(
        [
            *made.weights,
            *(part.at(packages[name]) for name, (part,) in made.compiled.items()),
            *made.tokenizer,
        ],
        "segments",
        Segments(
            weights=tuple(rank_file(rank) for rank in range(plan.tp)),
            layers=tuple(segment_names(plan.config, kind) for kind in plan.config.layer_kinds),
            packages=packages,
            products=products_of(plan.options),
            cache=cache_of(plan.options),
        ),
    )


def options_of(manifest: Manifest) -> TargetOptions:
    """The products and the cache of its segments."""
    made = manifest.runnable()
    return replace(PLAIN, quant_algo="" if made.products == "float" else made.products, kv_cache_quant_algo=made.cache)


def rank_folder(_manifest: Manifest) -> str:
    """The root: plans name the rank files with their folder."""
    return ""


def problems(_manifest: Manifest, _folder: Path) -> Sequence[str]:
    """None are known without running the packages."""
    return ()
