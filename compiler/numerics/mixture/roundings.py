"""One layer of the source with each of its parts in any scheme: rounded and dequantized, in float32.

Weights in schemes with feedback come from its result, others are rounded to nearest here, as the scheme says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compiler.calibration.linear_rows import linear_rows
from compiler.numerics.mixture.choice import NONE
from compiler.quantization.formats import load
from compiler.quantization.proof_levels import CPU
from compiler.quantization.schemes import PARTS, part_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from compiler.decoder.ranks import RanksInProcess
    from compiler.decoder.weights import StoredModel
    from compiler.quantization.format import Values
    from compiler.quantization.schemes import Scheme


@dataclass(frozen=True)
class Roundings:
    """Source `model`; `fed_back`: the same with weights that were rounded with feedback; `schemes`: to choose among.
    `device`: of forward passes; the CPU rounds.
    """

    model: StoredModel
    fed_back: StoredModel | None
    schemes: Sequence[Scheme]
    device: str = CPU

    @property
    def memory(self) -> int:
        """Bytes of a layer in all schemes."""
        return (1 + len(self.schemes)) * self.model.largest_layer_in_float32

    def layer(self, layer: int) -> Variants:
        """One layer, in memory as long as the result is referenced."""
        from compiler.decoder.ranks import placed

        weights = self.model.layer_in_float32(layer)
        found: dict[str, dict[str, dict[str, Tensor]]] = {NONE: {part: {} for part in PARTS}}
        for scheme in self.schemes:
            own = self._rounded(layer, weights, scheme)
            found[scheme.name] = {part: placed(tensors, self.device) for part, tensors in own.items()}
        return Variants(self.model, layer, placed(weights, self.device), found)

    def _rounded(self, layer: int, weights: Mapping[str, Tensor], scheme: Scheme) -> dict[str, dict[str, Tensor]]:
        """Rounded weights of linear layers, by part and name."""
        found: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
        other = None
        if scheme.rounds_with_feedback:
            assert self.fed_back is not None, scheme.name
            other = self.fed_back.layer_in_float32(layer)
        for linear, role, rows in linear_rows(self.model.config, self.model.config.layer_kinds[layer]):
            name, part = f"{linear}.weight", part_of(role)
            if other is not None:
                found[part][name] = other[name]
                continue
            rounded = found[part].setdefault(name, weights[name].clone())
            own = rounded[..., rows, :]
            own.copy_(_tensor(nearest(own.numpy(), scheme)))
        return found


@dataclass(frozen=True)
class Variants:
    """A layer: `weights` of the source, and those of linear layers that differ, by scheme, part and name."""

    model: StoredModel
    layer: int
    weights: Mapping[str, Tensor]
    rounded: Mapping[str, Mapping[str, Mapping[str, Tensor]]]

    def blocks(self, attn: str = NONE, mlp: str = NONE) -> RanksInProcess:
        """The layer with its parts in the schemes of these names."""
        from compiler.decoder.ranks import RanksInProcess

        kind = self.model.config.layer_kinds[self.layer]
        own = {**self.weights, **self.rounded[attn]["attn"], **self.rounded[mlp]["mlp"]}
        return RanksInProcess(self.model.config, kind, [own])


def nearest(weight: Values, scheme: Scheme) -> Values:
    """Weight [..., out, in], rounded to nearest in the format of the scheme, with its scales, and dequantized."""
    form = load(scheme.weights)
    rows = weight.reshape(*weight.shape[:-1], -1, scheme.group or weight.shape[-1])
    maxima = np.abs(rows).max(-1, keepdims=True)
    found = form.decode(form.round(rows * form.steps(maxima))) * form.scales(maxima)
    return np.asarray(found.reshape(weight.shape), np.float32)


def _tensor(values: Values) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))
