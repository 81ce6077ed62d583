"""Scales of a scheme as a toolchain's kernels read them: where smoothing's s goes, which matrices share a scale."""

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
"""(role, part) of the cache scales of a layer: one scale for all, or one for the keys and one for the values of each kv
head. Not finer, because the maximum of a channel over a short text predicts its later maximum badly.
"""

_DIVIDES: Mapping[Divides, Callable[[Sequence[Smooth]], tuple[Smooth, ...]]] = {
    "all": folded,
    "norms": explicit,
    "inputs": at_run_time,
}


@dataclass(frozen=True)
class Scaling:
    """Scales of `scheme` for a toolchain; weights of its files in FLOAT are not rounded.

    `divides`: layers that s divides, so that W * s reads x / s.

        all       any layer before that can absorb 1 / s; layers without one are not smoothed
        norms     norms; kernels of other layers divide their inputs by `columns` while the model runs
        inputs    none: every kernel multiplies its input by `prequant`, in the files' dtype

    `joined`: roles that are one matrix. `one_scale`: whether joined layers share the scale of a whole matrix. `cache`:
    format of keys and values in the cache, "" for the dtype of the model; `cache_scales`: one scale per layer or head.
    `head`: format of the head's matrix, "" for the dtype of the model.
    """

    scheme: Scheme
    divides: Divides = "all"
    joined: tuple[tuple[str, ...], ...] = ()
    one_scale: bool = False
    cache: str = ""
    cache_scales: CacheScales = "layer"
    head: str = ""

    @property
    def calibrated(self) -> bool:
        """Whether it needs a calibration text."""
        return self.scheme.calibrated or self.cache != ""

    @property
    def cache_parts(self) -> tuple[tuple[str, str], ...]:
        """(role, part) of the cache scales of a layer."""
        return CACHE_PARTS[self.cache_scales] if self.cache else ()

    def roles(self, config: ModelConfig, layer: int) -> tuple[str, ...]:
        """Linear layers of a layer whose weights are rounded."""
        roles = quantized_roles(config, config.layer_kinds[layer])
        return tuple(role for role in roles if self.scheme.at(layer, role).weights != FLOAT)

    def groups(self, config: ModelConfig, kind: LayerKind) -> tuple[Smooth, ...]:
        """Smoothing groups of one layer."""
        return _DIVIDES[self.divides](groups(config, kind))

    def with_role(self, role: str, roles: Sequence[str]) -> tuple[str, ...]:
        """Roles among `roles` that are one matrix with `role`, itself included."""
        found = next((joined for joined in self.joined if role in joined), (role,))
        return tuple(one for one in found if one in roles)
