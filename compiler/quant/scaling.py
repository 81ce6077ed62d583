"""A scheme as a toolchain's kernels want its scales: where smoothing's s goes, and which matrices share a scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from compiler.ir.config import LayerKind, ModelConfig
from compiler.quant.groups import Smooth, at_run_time, explicit, folded, groups, quantised_roles
from compiler.quant.schemes import Scheme

Divides = Literal["all", "norms", "inputs"]

_DIVIDES: Mapping[Divides, Callable[[Sequence[Smooth]], tuple[Smooth, ...]]] = {
    "all": folded,
    "norms": explicit,
    "inputs": at_run_time,
}


@dataclass(frozen=True)
class Scaling:
    """`scheme`: as the toolchain runs it; with weights in "float", those in its files are not rounded.

    `divides`: what s divides, so that W * s sees x / s.

        all       whatever stands in front and takes it; layers with nothing there are not smoothed
        norms     norms; kernels of other layers divide their inputs by `columns` while the model runs
        inputs    nothing: every kernel multiplies its input by `prequant`, in the files' dtype

    `joined`: layers that are one matrix, by role. `one_scale`: whether a scale for a whole matrix is that of all
    joined layers; otherwise each has its own. `cache`: format of keys and values in the cache, "" as they are.
    """

    scheme: Scheme
    divides: Divides = "all"
    joined: tuple[tuple[str, ...], ...] = ()
    one_scale: bool = False
    cache: Literal["", "int8", "fp8"] = ""

    @property
    def calibrated(self) -> bool:
        """Whether it needs text."""
        return self.scheme.calibrated or self.cache != ""

    def roles(self, config: ModelConfig, kind: LayerKind) -> tuple[str, ...]:
        """The linear layers whose weights are rounded."""
        return () if self.scheme.weights == "float" else quantised_roles(config, kind)

    def groups(self, config: ModelConfig, kind: LayerKind) -> tuple[Smooth, ...]:
        """The groups of one layer, and what each of them divides."""
        return _DIVIDES[self.divides](groups(config, kind))

    def with_role(self, role: str, roles: Sequence[str]) -> tuple[str, ...]:
        """Those of a layer's `roles` that are one matrix with `role`, itself included."""
        found = next((joined for joined in self.joined if role in joined), (role,))
        return tuple(one for one in found if one in roles)
