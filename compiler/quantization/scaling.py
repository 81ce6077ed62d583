"""A scheme as a toolchain's kernels want its scales: where smoothing's s goes, and which matrices share a scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from compiler.model.config import LayerKind, ModelConfig
from compiler.quantization.groups import Smooth, at_run_time, explicit, folded, groups, quantized_roles
from compiler.quantization.schemes import FLOAT, Scheme

Divides = Literal["all", "norms", "inputs"]
CacheScales = Literal["layer", "head"]

CACHE_PARTS: Mapping[CacheScales, tuple[tuple[str, str], ...]] = {
    "layer": (("attn.k", "cache_scale"),),
    "head": (("attn.k", "cached_scale"), ("attn.v", "cached_scale")),
}
"""(role, part) of the scales of a quantized cache, in every layer: one for all, or one for the keys and one for the
values of each kv head. Not finer: what a channel reaches in a short text says too little of what it will reach.
"""

_DIVIDES: Mapping[Divides, Callable[[Sequence[Smooth]], tuple[Smooth, ...]]] = {
    "all": folded,
    "norms": explicit,
    "inputs": at_run_time,
}


@dataclass(frozen=True)
class Scaling:
    """`scheme`: as the toolchain runs it; with weights in FLOAT, those in its files are not rounded.

    `divides`: the layers that s divides, so that W * s sees x / s.

        all       whatever stands in front and takes it; layers with nothing there are not smoothed
        norms     norms; kernels of other layers divide their inputs by `columns` while the model runs
        inputs    nothing: every kernel multiplies its input by `prequant`, in the files' dtype

    `joined`: layers that are one matrix, by role. `one_scale`: whether a scale for a whole matrix is that of all
    joined layers; otherwise each has its own. `cache`: format of keys and values in the cache, "" as they are;
    `cache_scales`: of what there is one.
    """

    scheme: Scheme
    divides: Divides = "all"
    joined: tuple[tuple[str, ...], ...] = ()
    one_scale: bool = False
    cache: str = ""
    cache_scales: CacheScales = "layer"

    @property
    def calibrated(self) -> bool:
        """Whether it needs text."""
        return self.scheme.calibrated or self.cache != ""

    @property
    def cache_parts(self) -> tuple[tuple[str, str], ...]:
        """(role, part) of the scales of the cache in every layer."""
        return CACHE_PARTS[self.cache_scales] if self.cache else ()

    def roles(self, config: ModelConfig, kind: LayerKind) -> tuple[str, ...]:
        """The linear layers whose weights are rounded."""
        return () if self.scheme.weights == FLOAT else quantized_roles(config, kind)

    def groups(self, config: ModelConfig, kind: LayerKind) -> tuple[Smooth, ...]:
        """The groups of one layer, and what each of them divides."""
        return _DIVIDES[self.divides](groups(config, kind))

    def with_role(self, role: str, roles: Sequence[str]) -> tuple[str, ...]:
        """The roles among a layer's `roles` that are one matrix with `role`, itself included."""
        found = next((joined for joined in self.joined if role in joined), (role,))
        return tuple(one for one in found if one in roles)
