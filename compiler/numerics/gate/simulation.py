"""A quantization scheme itself: the layers of the source, rounded as the scheme says, without layouts, ranks or files.

The error of a part that is rounded correctly follows from the source's weights, the canonical scales and the number
formats alone:

    weight        decode(round(W columns steps)) scale          columns, steps, scale: `quantization/parts.py`
    input         x / columns where kernels divide it, rounded with the fixed input scale, or with one per token of
                  each rank, which sees its own columns of a row-parallel layer
    cache         keys and values rounded with their scale
    other         rounded to the dtype of the files

Files that compute anything else are wrong, though their error may be small beside the residual stream. Weights that a
toolchain rounds while it loads them (`at_load`) have one scale for each row of a rank: largest |W| / 2^(bits - 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from compiler.calibration.linear_rows import linear_rows
from compiler.model.ops import Shard
from compiler.model.roles import TensorId, linear_axes
from compiler.quantization.formats import load
from compiler.quantization.proof_levels import CPU
from compiler.quantization.schemes import COLUMNS, FLOAT, HEADS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from compiler.decoder.kernels import Kernels
    from compiler.decoder.layer import Blocks
    from compiler.decoder.moe import Biases
    from compiler.decoder.weights import StoredModel
    from compiler.model.config import Activation, LayerKind
    from compiler.model.layout import Layout
    from compiler.quantization.format import ActivationUse, Values
    from compiler.quantization.scaling import Scaling
    from compiler.quantization.schemes import Scheme

_EPSILON = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_SUMS = 2.0**-16
"""Difference of float32 sums in another order, as a share of a part's output: all that parts in float32 differ by."""
_ROUNDINGS = 2
"""Roundings to the files' dtype that the simulation may do at another place than the files, in units of epsilon."""


@dataclass(frozen=True)
class SchemeSide:
    """Layers as a scheme rounds them. `model`: the source with the scheme's scales among its tensors. `scaling`: of
    these scales; None: there are none. `dtype`: of the files, by torch's name. `at_load`: format of weights that the
    toolchain rounds itself, "" for none. `split`: see `RankRounding`. `device`: of the forward pass; the CPU rounds.
    """

    model: StoredModel
    scaling: Scaling | None
    dtype: str
    at_load: str = ""
    split: RankRounding = field(default_factory=lambda: WHOLE)
    device: str = CPU

    @property
    def floor(self) -> float:
        """Error that rounding to the files' dtype, and sums, may cause, as a share of a part's output."""
        return max(_ROUNDINGS * _EPSILON[self.dtype], _SUMS)

    def layer(self, layer: int) -> Blocks:
        """One layer, in memory as long as the result is referenced."""
        from compiler.decoder.ranks import RanksInProcess, placed

        kind = self.model.config.layer_kinds[layer]
        weights = self.model.layer_in_float32(layer)
        self._round_others(layer, kind, weights)
        inputs = self._round(layer, kind, weights)
        if self.scaling is not None and TensorId("attn.k", "cache_scale", layer) in self.model:
            scale = self._part("attn.k", "cache_scale", layer).reshape(-1)
            whole = _tensor(np.repeat(scale, self.model.config.kv_heads))
            weights |= {"attn.k.cache_scale": whole, "attn.v.cache_scale": whole}
        there, own = placed(weights, self.device), {name: of.placed(self.device) for name, of in inputs.items()}
        return RanksInProcess(self.model.config, kind, [there], _kernels(there, own, self.scaling))

    def head(self) -> Callable[[Tensor], Tensor] | None:
        """Function from states [1, tokens, hidden] after the last layer to logits [tokens, vocab] of the rounded head;
        None where it is not rounded.
        """
        from compiler.decoder.kernels import PLAIN, wide
        from compiler.decoder.ranks import logits, placed

        if self.scaling is None or not self.scaling.head:
            return None
        weights, scheme = self.model.head(), HEADS[self.scaling.head]
        name = "embed.weight" if self.model.config.tied else "head.weight"
        rounded = _tensor(self._rounded(None, "head", weights[name].float().numpy(), scheme))
        there = placed({**weights, name: rounded}, self.device)
        return lambda x: logits(self.model.config, [there], x, wide(PLAIN))[0]

    def _round(self, layer: int, kind: LayerKind, weights: Mapping[str, Tensor]) -> dict[str, Input]:
        """Round the weights of linear layers in place; rounding of their inputs, by the weight's name."""
        inputs: dict[str, Input] = {}
        divided = self._divided(kind)
        for name, role, rows in linear_rows(self.model.config, kind):
            weight = weights[f"{name}.weight"][..., rows, :]
            if self.at_load:
                weight.copy_(_rounded_at_load(weight, load(self.at_load).bits, self.split.shards.get(role, 1)))
            elif self.scaling is not None and (scheme := self.scaling.scheme.at(layer, role)).weights != FLOAT:
                weight.copy_(_tensor(self._rounded(layer, role, weight.numpy(), scheme)))
                inputs.setdefault(f"{name}.weight", self._input(layer, role, divided=role in divided))
        return inputs

    def _rounded(self, layer: int | None, role: str, weight: Values, scheme: Scheme) -> Values:
        """Weight [experts, out, in] or [out, in], rounded and dequantized."""
        form, lead = load(scheme.weights), weight.shape[:-2]
        if TensorId(role, "columns", layer) in self.model:
            weight = weight * self._part(role, "columns", layer).reshape(*lead, 1, -1)
        part = "group_" if scheme.weight_scales == "group" else ""
        steps, scale = (self._part(role, f"{part}{of}", layer).reshape(*weight.shape[:-1], -1) for of in _PAIR)
        rows = weight.reshape(*steps.shape, -1)
        found = form.decode(form.round(rows * steps[..., None])) * scale[..., None]
        return np.asarray(found.reshape(weight.shape), np.float32)

    def _input(self, layer: int, role: str, *, divided: bool) -> Input:
        assert self.scaling is not None
        scheme = self.scaling.scheme.at(layer, role)
        use = None if scheme.activations == FLOAT else load(scheme.activations).activations
        lead = len(linear_axes(role)[0])
        columns = self._part(role, "columns", layer) if divided else None
        fixed = TensorId(role, "input_scale", layer)
        return Input(
            None if columns is None else _tensor(columns.reshape(*columns.shape[:lead], -1)),
            use,
            _tensor(self._part(role, "input_scale", layer).reshape(-1)[:1]) if fixed in self.model else None,
            self.split.shards.get(role, 1),
        )

    def _divided(self, kind: LayerKind) -> set[str]:
        """Roles whose inputs kernels divide."""
        if self.scaling is None or self.scaling.scheme.search not in COLUMNS:
            return set()
        found = self.scaling.groups(self.model.config, kind)
        return {role for group in found if not group.divides for role in group.into}

    def _round_others(self, layer: int, kind: LayerKind, weights: Mapping[str, Tensor]) -> None:
        """Round to the files' dtype all that scales do not round, in place."""
        import torch

        rounded = self.scaling.roles(self.model.config, layer) if self.scaling is not None else ()
        quantized = {f"{name}.weight" for name, role, _ in linear_rows(self.model.config, kind) if role in rounded}
        for name, tensor in weights.items():
            role, _, part = name.rpartition(".")
            kept = role in self.split.kept or part.endswith("scale") or name in quantized
            if not kept:
                tensor.copy_(tensor.to(getattr(torch, self.dtype)))

    def _part(self, role: str, part: str, layer: int | None) -> Values:
        return self.model.canonical(TensorId(role, part, layer))


_PAIR = ("steps", "scale")


@dataclass(frozen=True)
class Input:
    """Rounding of a linear layer's input. `columns` [in] or [experts, in]: its divisors; `use`: format; `scale` [1]:
    fixed, None: of each token in each of `shards` equal parts of its channels.
    """

    columns: Tensor | None
    use: ActivationUse | None
    scale: Tensor | None
    shards: int = 1

    def placed(self, device: str) -> Input:
        """Copy with its tensors on a device."""
        columns, scale = (None if one is None else one.to(device) for one in (self.columns, self.scale))
        return replace(self, columns=columns, scale=scale)

    def __call__(self, x: Tensor, expert: int | None = None) -> Tensor:
        """Rounded x [..., in]."""
        if self.columns is not None:
            x = x / (self.columns if expert is None or self.columns.ndim == 1 else self.columns[expert])
        if self.use is None or not x.numel():
            return x
        units, scale = self.use.tokens(x.unflatten(-1, (self.shards, -1)), self.scale)
        return (units.float() * scale).flatten(-2)


@dataclass(frozen=True)
class RankRounding:
    """Facts of a layout that change the rounding. `shards`: number of ranks that share the columns of a linear layer,
    by role; others have all. `kept`: roles in float32, whatever the dtype of the files.
    """

    shards: Mapping[str, int]
    kept: frozenset[str]


WHOLE: RankRounding = RankRounding({}, frozenset())
"""One rank, all in the dtype of the files."""


def split_of(layouts: Sequence[Layout]) -> RankRounding:
    """RankRounding of the linear layers by these layouts."""
    found = {}
    for layout in layouts:
        for tensor, program in zip(layout.inputs, layout.spread, strict=True):
            if tensor.part == "weight" and tensor.layer is not None and len(tensor.axes) > 1:
                inner = linear_axes(tensor.role)[2]
                split = (op for op in program if isinstance(op, Shard) and tensor.axes[op.axis] in inner)
                found[tensor.role] = prod(op.parts for op in split)
    kept = (t.role for layout in layouts if layout.dtype == "F32" for t in layout.inputs if t.part == "weight")
    return RankRounding(found, frozenset(kept))


def _kernels(weights: Mapping[str, Tensor], inputs: Mapping[str, Input], scaling: Scaling | None) -> Kernels:
    from compiler.decoder.attention import cache_dtype
    from compiler.decoder.kernels import PLAIN, Kernels
    from compiler.decoder.mlp import gated
    from compiler.decoder.moe import loop_over
    from compiler.decoder.wide import product

    # Kernels receive the tensor itself, without a name: its identity tells which layer calls.
    names = {id(weight): name for name, weight in weights.items()}
    plain = Input(None, None, None)

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return product(inputs.get(names.get(id(weight), ""), plain)(x), weight, bias)

    def experts(
        x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation,
        biases: Biases = None,
    ) -> Tensor:  # fmt: skip
        first, second = (inputs.get(names[id(weight)], plain) for weight in (gate_up, down))

        def run(tokens: Tensor, e: int) -> Tensor:
            before, after = (None, None) if biases is None else (biases[0][e], biases[1][e])
            inner = gated(product(first(tokens, e), gate_up[e], before), kind)
            return product(second(inner, e), down[e], after)

        return loop_over(x, chosen, share, gate_up.shape[0], run)

    cached = cache_dtype(scaling.cache) if scaling is not None and scaling.cache else PLAIN.cached
    return Kernels(linear, experts, cached=cached)


def _rounded_at_load(weight: Tensor, bits: int, shards: int) -> Tensor:
    """Weight [..., out, in], rounded row by row in each of `shards` equal parts of a row."""
    half = 1 << (bits - 1)
    rows = weight.unflatten(-1, (shards, -1))
    scale = rows.abs().amax(-1, keepdim=True).clamp_min(1e-30) / half
    found: Tensor = ((rows / scale).round().clamp(-half, half - 1) * scale).flatten(-2)
    return found


def _tensor(values: Values) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))
