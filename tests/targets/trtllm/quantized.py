"""Tiny models, quantized with `compiler/quant`: the canonical tensors that a layout takes, and the logits to expect.

The logits are those of `compiler/decoder` in float32 with weights that are rounded and widened again, and with every
linear layer's input rounded on its way in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compiler.decoder.attention import Cache, store
from compiler.decoder.forward import forward
from compiler.decoder.kernels import Kernels
from compiler.decoder.mlp import gated
from compiler.decoder.moe import Biases, loop_over
from compiler.decoder.rankfile.layout import FUSED, rank_plans
from compiler.decoder.record import Recorder
from compiler.model.config import Activation, ModelConfig
from compiler.model.lazy import read, whole
from compiler.model.roles import TensorId, linear_axes
from compiler.quantization.format import group_maxima
from compiler.quantization.formats import fp8, int4, int8
from compiler.quantization.groups import (
    Factors,
    Maxima,
    apply,
    explicit,
    groups,
    layer_factors,
    layer_scales,
    quantized_roles,
)
from compiler.quantization.rounding import pack
from compiler.targets.trtllm.layout import rank_plans as trtllm_plans
from compiler.targets.trtllm.options import TrtllmOptions
from tests.quantization import numpy_int4, numpy_int8
from tests.targets.trtllm.models import TOKENS

Array = NDArray[Any]
Canonical = dict[TensorId, Any]
"""float32, int8, or the bytes of float8 as uint8."""
Round = Callable[[NDArray[np.float32]], NDArray[np.float32]]
DTYPES = {"float32": "F32", "int8": "I8", "uint8": "F8_E4M3"}


@dataclass
class Quantized:
    tensors: Canonical
    logits: NDArray[np.float32]


def ranks_of(config: ModelConfig, tensors: Canonical, tp: int, options: TrtllmOptions) -> list[dict[str, Array]]:
    """Rank files as the judge reads them, in float32."""
    return [
        {name: fp8.decode(bits) if bits.dtype == np.uint8 else bits.astype(np.float32) for name, bits in rank.items()}
        for rank in stored_ranks_of(config, tensors, tp, options)
    ]


def stored_ranks_of(config: ModelConfig, tensors: Canonical, tp: int, options: TrtllmOptions) -> list[dict[str, Array]]:
    """Rank files as they are stored; bytes of float8 as uint8."""
    lazies = {t: whole(str(t), array.shape, DTYPES[array.dtype.name]) for t, array in tensors.items()}
    flat = {str(t): array.ravel().view(f"u{array.itemsize}") for t, array in tensors.items()}
    kinds = {"F32": "f4", "I8": "i1", "F8_E4M3": "u1"}
    found = []
    for plan in trtllm_plans(config, tp, lazies, "F32", options):
        assert all(t.dtype == t.source_dtype for _, t in plan.tensors)  # nothing but layout
        bits = {name: (t, read(t, flat.__getitem__)) for name, t in plan.tensors}
        found.append(
            {
                name: (pack(raw.view(np.int8), t.packing) if t.packing else raw).view(kinds[t.dtype])
                for name, (t, raw) in bits.items()
            }
        )
    return found


def _weights(config: ModelConfig, tensors: Mapping[TensorId, Array]) -> dict[str, Tensor]:
    """By the names of the decoder."""
    lazies = {t: whole(str(t), array.shape, "F32") for t, array in tensors.items()}
    flat = {str(t): array.astype(np.float32).ravel().view("u4") for t, array in tensors.items()}
    (plan,) = rank_plans(config, 1, lazies, "F32")
    return {name: torch.from_numpy(read(t, flat.__getitem__).view("f4").copy()) for name, t in plan.tensors}


def _logits(config: ModelConfig, weights: dict[str, Tensor], kernels: Kernels) -> NDArray[np.float32]:
    return np.asarray(forward(config, weights, torch.from_numpy(TOKENS)[None], kernels)[0].numpy())


class _Rounding:
    """Kernels that round what goes into the products with `weights`, by the functions `inputs` of their names."""

    def __init__(self, weights: Mapping[str, Tensor], inputs: Mapping[str, Round]) -> None:
        self._of = {id(weights[name]): step for name, step in inputs.items()}
        self.kernels = Kernels(self._linear, self._experts)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        step = self._of.get(id(weight))
        rounded = x if step is None else torch.from_numpy(np.asarray(step(x.numpy()), np.float32))
        return torch.nn.functional.linear(rounded, weight, bias)

    def _experts(
        self, x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation, _biases: Biases
    ) -> Tensor:
        def product(y: Tensor, weight: Tensor, expert: int) -> Tensor:
            return torch.from_numpy(self._of[id(weight)](y.numpy())) @ weight[expert].T

        return loop_over(
            x, chosen, share, len(gate_up), lambda y, e: product(gated(product(y, gate_up, e), kind), down, e)
        )


def quantize(config: ModelConfig, tensors: Mapping[TensorId, Array], options: TrtllmOptions, tp: int = 1) -> Quantized:
    """Calibrated on the tokens that the judge is given. `tp`: a rank of a row-parallel layer sees its part of a token,
    and where each token has its own scale it takes it from that part.
    """
    algo, kv = options.quant_algo, options.kv_cache_quant_algo
    plain = _weights(config, tensors)
    record = Recorder(plain)
    _logits(config, plain, record.kernels)
    found: Canonical = dict(tensors)
    widened: Canonical = dict(tensors)
    inputs: dict[str, Round] = {}
    cache: list[Round] = []
    for layer, kind in enumerate(config.layer_kinds):
        roles = quantized_roles(config, kind)
        at = {role: f"layers.{layer}.{_decoder_name(role, roles)}.weight" for role in roles}
        seen = {role: record.inputs[at[role]].numpy() for role in roles}
        columns: dict[str, Array] = {}
        if algo not in ("FP8", ""):
            columns = _smoothed(config, layer, tensors, found, seen, folded=algo.endswith("_PLUGIN"))
        for role in roles:
            _quantize(config, TensorId(role, "weight", layer), roles, found, widened, algo)
            x = seen[role] if role not in columns else seen[role] / columns[role].ravel()
            y = _own_rows(role, at, record.outputs[at[role]].numpy(), found, layer)
            if role in FUSED["attn.qkv"]:  # one matrix, one scale of its output
                y = record.outputs[at[role]].numpy()
            _activations(TensorId(role, "weight", layer), found, float(x.max()), float(y.max()))
            row_parallel = role in ("attn.o", "mlp.down")
            s = np.ones(1, np.float32)
            if role in columns and (row_parallel or not algo.endswith("_PLUGIN")):
                s = columns[role].ravel()
            inputs[at[role]] = _input(algo, s, found, TensorId(role, "weight", layer), tp if row_parallel else 1)
        for t in [t for t in found if t.layer == layer and t.role.endswith("norm")]:
            widened[t] = found[t]
        q, k, v = (_own_rows(r, at, record.outputs[at[r]].numpy(), found, layer) for r in FUSED["attn.qkv"])
        scale = (
            np.float32(max(q.max(), k.max(), v.max())) / int8.LARGEST
            if kv == "INT8"
            else fp8.tensor_scale(float(max(k.max(), v.max())))
        )
        found[TensorId("attn.k", "cache_scale", layer)] = np.full(1, scale, np.float32)
        cache += [_cached(kv, scale)] * 2
    weights = _weights(config, {t: a for t, a in widened.items() if t.part in ("weight", "bias")})
    calls = iter(cache)

    def rounded(to: Cache, positions: Tensor, *new: Tensor) -> None:
        """Keys, then values, layer by layer."""
        k, v = (torch.from_numpy(next(calls)(values.numpy())) for values in new)
        store(to, positions, k, v)

    with patch("compiler.decoder.decoder.store", rounded):
        logits = _logits(config, weights, _Rounding(weights, inputs).kernels)
    return Quantized(found, logits)


def _decoder_name(role: str, roles: tuple[str, ...]) -> str:
    for name, parts in FUSED.items():
        if role in parts and set(parts) <= set(roles):
            return name
    return role


def _own_rows(role: str, at: Mapping[str, str], y: Array, found: Canonical, layer: int) -> Array:
    """What a layer gave, cut out of what the joined ones gave."""
    start = 0
    for other, name in at.items():
        if name == at[role]:
            if y.ndim > 1:  # experts
                return y
            rows = _matrix(found[TensorId(other, "weight", layer)], other).shape[-2]
            if other == role:
                return y[start : start + rows]
            start += rows
    raise AssertionError(role)


def _matrix(weight: Any, role: str) -> Any:
    """[..., rows, columns]"""
    lead, rows, _ = (len(axes) for axes in linear_axes(role))
    shape = weight.shape
    return weight.reshape(*shape[:lead], int(np.prod(shape[lead : lead + rows])), -1)


def _smoothed(
    config: ModelConfig, layer: int, tensors: Mapping[TensorId, Array], found: Canonical, seen: Mapping[str, Array],
    *, folded: bool,
) -> dict[str, Array]:  # fmt: skip
    """s by role; weights in `found` are multiplied, norms divided where s is `folded` into them."""
    kind = config.layer_kinds[layer]
    maxima = {}
    for role in seen:
        weight = tensors[TensorId(role, "weight", layer)]
        rows = len(linear_axes(role)[1])
        maxima[role] = Maxima(seen[role].reshape(weight.shape[rows:]), np.abs(weight).max(tuple(range(rows))))
    wanted = explicit(groups(config, kind))
    factors, _ = layer_factors(config, wanted, layer_scales(config, wanted, maxima, 0.5))
    columns = {}
    for role, of in factors.items():
        if role in seen:
            t = TensorId(role, "weight", layer)
            found[t] = apply(config, role, "weight", tensors[t], Factors(None, of.columns)).astype(np.float32)
            assert of.columns is not None
            columns[role] = found[TensorId(role, "columns", layer)] = of.columns
            found[TensorId(role, "prequant", layer)] = (1 / of.columns).astype(np.float32)
        elif folded:
            for part in ("weight", "bias"):
                t = TensorId(role, part, layer)
                if t in tensors:
                    found[t] = apply(config, role, part, tensors[t], of)
    return columns


def _quantize(
    config: ModelConfig, t: TensorId, roles: tuple[str, ...], found: Canonical, widened: Canonical, algo: str,
) -> None:  # fmt: skip
    """Replace weight `t` of `found` by its integers and scales; `widened` gets the weight that they represent."""
    if not algo:
        return
    weight = found[t]
    matrix = _matrix(weight, t.role)
    *lead, rows, _ = matrix.shape

    def put(part: str, values: Array) -> None:
        own = TensorId(t.role, part, t.layer)
        found[own] = np.ascontiguousarray(values, np.float32)

    if algo == "FP8":
        joined = _joined(config, t.role, roles)
        own = TensorId(joined[0], "matrix_scale", t.layer)
        if own not in found:  # the joined layers have one scale, from all of them
            maxima = np.maximum.reduce([np.abs(_matrix(found[TensorId(r, "weight", t.layer)], r)).max((-2, -1))
                                        for r in joined])  # fmt: skip
            found[own] = (np.maximum(maxima, 1e-8) / fp8.LARGEST).astype(np.float32).reshape(*lead, 1)
        scale = found[own][..., None]
        bits = fp8.encode(matrix / scale)
        found[t], widened[t] = bits.reshape(weight.shape), (fp8.decode(bits) * scale).reshape(weight.shape)
        return
    if algo == "W4A16_AWQ":
        scales = int4.scales(group_maxima(matrix, 128))
        integers = numpy_int4.quantize(matrix, scales)
        inner = len(linear_axes(t.role)[1])
        widened[t] = numpy_int4.dequantize(integers, scales).reshape(weight.shape)
        found[t] = integers.reshape(weight.shape)
        put("group_scale", scales.reshape(*weight.shape[:inner], -1))
        return
    maxima = numpy_int8.row_maxima(matrix)
    if "_PER_TENSOR_PER_TOKEN" in algo or algo == "W8A8_SQ_PER_TENSOR_PLUGIN":
        maxima = np.full(rows, maxima.max(), np.float32)
    steps = int8.steps(maxima)
    integers = numpy_int8.quantize(matrix, steps[:, None])
    found[t] = integers.reshape(weight.shape)
    widened[t] = numpy_int8.dequantize(integers, int8.scales(maxima)[:, None]).reshape(weight.shape)
    put("scale", int8.scales(maxima).reshape(weight.shape[: len(linear_axes(t.role)[1])]))
    put("matrix_scale", int8.scales(maxima)[:1])


def _joined(config: ModelConfig, role: str, roles: tuple[str, ...]) -> tuple[str, ...]:
    """The layers that TensorRT-LLM keeps in one matrix with `role`, the first first."""
    fused = [("attn.q", "attn.k", "attn.v"), ("moe.up", "moe.gate"), ("shared.up", "shared.gate")]
    if config.architecture == "Phi3ForCausalLM":
        fused.append(("mlp.up", "mlp.gate"))
    return next((tuple(r for r in group if r in roles) for group in fused if role in group), (role,))


def _activations(t: TensorId, found: Canonical, x: float, y: float) -> None:
    def put(part: str, values: Any) -> None:
        found[TensorId(t.role, part, t.layer)] = np.atleast_1d(np.asarray(values, np.float32))

    put("input_scale", fp8.tensor_scale(x) if found[t].dtype == np.uint8 else np.float32(x) / 127)
    scale = TensorId(t.role, "scale", t.layer)
    if scale in found:
        static = int8.static(x, y, 1 / found[scale])
        put("static_steps", static.input)
        put("output_scale", static.output)
        put("accumulated", static.accumulated)
        put("matrix_accumulated", static.accumulated.ravel()[:1])


def _input(algo: str, s: Any, found: Canonical, t: TensorId, parts: int) -> Round:
    """What becomes of a layer's input; leaves in `found` the steps that the scheme stores."""
    own = TensorId(t.role, "input_steps", t.layer)
    scale = found[TensorId(t.role, "input_scale", t.layer)]
    if algo == "FP8":
        return lambda x: fp8.decode(fp8.encode(x / scale)) * scale
    if algo == "W4A16_AWQ":
        return lambda x: x * (1 / s)
    if algo == "W8A8_SQ_PER_CHANNEL":
        return lambda x: numpy_int8.dequantize(numpy_int8.quantize(x * (1 / s) / scale, np.ones(1, np.float32)), scale)
    if algo.endswith("_PER_TOKEN_PLUGIN"):
        found[own] = np.ones(1, np.float32)
        return lambda x: np.concatenate(
            [numpy_int8.dequantize(*numpy_int8.quantize_tokens(part)) for part in np.split(x / s, parts, -1)], -1
        )
    if algo:
        found[own] = steps = found.pop(TensorId(t.role, "static_steps", t.layer))
        return lambda x: numpy_int8.dequantize(numpy_int8.quantize(x / s, steps), 1 / steps)
    return lambda x: x


def _cached(kv: str, scale: np.float32) -> Round:
    if kv == "INT8":
        return lambda x: np.clip(np.rint(x / scale), -128, 127) * scale
    if kv == "FP8":
        return lambda x: fp8.decode(fp8.encode(x / scale)) * scale
    return lambda x: x
