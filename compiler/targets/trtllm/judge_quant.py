"""Linear modules under each `quant_algo`, with the engine's semantics of their scales, for the judge only.

x [S, in] -> x W^T [S, out], without the bias. q(v) rounds to nearest even and saturates.

    FP8                      q(x / a) q_w^T * a * s             a activation_scaling_factor, s weights_scaling_factor
    W8A8_SQ_PER_CHANNEL      q(x p / a) q_w^T * a * s[out]      p prequant_scaling_factor
    W4A16_AWQ                (x p) (q_w * s[out, group])^T
    ..._PER_TOKEN_PLUGIN     q(x 127 / m) q_w^T * m / 127 * c   m largest |x| of the token, c per_channel_scale
    ..._PER_TENSOR_PLUGIN    q(x f) q_w^T * c * o               f scale_to_int, quantization_scaling_factor; o act_scale
    W8A16, W4A16             x q(W)^T                           plain weights, which the loader rounds row by row

dense and proj of the plugin's algorithms divide x by their smoother first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compiler.errors import ArtifactError
from compiler.targets.trtllm.judge_math import Array, as_e4m3, as_int8, rounded
from compiler.targets.trtllm.judge_model import BUG, RankReader

_WEIGHT_BITS = {"W8A16": 8, "W4A16": 4}
_INTO_INTEGERS = {
    "attention.qkv": "input_layernorm.scale_to_int",
    "attention.dense": "attention.quantization_scaling_factor",
    "mlp.fc": "post_layernorm.scale_to_int",
    "mlp.gate": "post_layernorm.scale_to_int",
    "mlp.proj": "mlp.quantization_scaling_factor",
}
"""Tensor of the layer with the input's quantization scale, by module."""
_OWN_STEPS = ("attention.qkv", "mlp.fc", "mlp.gate")
"""Modules behind a norm, which quantizes their input, also with a scale for each token."""


def linear(file: RankReader, at: str, module: str, x: Array, rows: int) -> Array:
    """Output of `module` [rows, in] of the layer `at`: x [..., in] -> [..., rows]. Raises ArtifactError."""
    name = at + module
    match file.algo:
        case "":
            return file.times(x, file.get(f"{name}.weight", rows, x.shape[-1]))
        case "W8A16" | "W4A16":
            return _rounded(file, x, f"{name}.weight", rows)
        case "FP8":
            return _fp8(file, name, x, rows)
        case "W8A8_SQ_PER_CHANNEL":
            return _native(file, name, x, rows)
        case "W4A16_AWQ":
            return _awq(file, name, x, rows)
        case algo if algo.startswith("W8A8_SQ_") and algo.endswith("_PLUGIN"):
            return _smooth(file, at, module, x, rows)
    raise ArtifactError(f"config.json: the judge does not compute quant_algo {file.algo!r}", hint=BUG)


def experts(file: RankReader, weight: str, count: int, rows: int, columns: int) -> Callable[[int, Array], Array]:
    """Function of (expert, x [S, columns]) -> [S, rows], for `weight` [count, rows, columns]. Raises ArtifactError."""
    matrices = file.get(weight, count, rows, columns)
    if file.algo == "FP8":
        module = weight.removesuffix(".weight")
        scales = np.asarray(file.get(f"{module}.weights_scaling_factor", count, 1)[0:count])
        scale = file.number(f"{module}.activation_scaling_factor")
        return lambda i, x: file.times(as_e4m3(x / scale), matrices[i]) * (scale * scales[i, 0])
    if file.algo and file.algo not in _WEIGHT_BITS:
        raise ArtifactError(f"config.json: quant_algo {file.algo!r} does not support experts", hint=BUG)
    bits = _WEIGHT_BITS.get(file.algo)
    return lambda i, x: file.times(x, matrices[i], None if bits is None else lambda values, _: rounded(values, bits))


def cached(file: RankReader, at: str, x: Array) -> Array:
    """Keys or values as read back from the cache."""
    if not file.kv_algo:
        return x
    scale = file.number(at + "attention.kv_cache_scaling_factor")
    return np.asarray((as_int8 if file.kv_algo == "INT8" else as_e4m3)(x / scale) * scale)


def _rounded(file: RankReader, x: Array, weight: str, rows: int) -> Array:
    bits = _WEIGHT_BITS[file.algo]
    return file.times(x, file.get(weight, rows, x.shape[-1]), lambda values, _: rounded(values, bits))


def _fp8(file: RankReader, name: str, x: Array, rows: int) -> Array:
    scale = file.number(f"{name}.activation_scaling_factor")
    product = file.times(as_e4m3(x / scale), file.get(f"{name}.weight", rows, x.shape[-1]))
    return np.asarray(product * (scale * file.number(f"{name}.weights_scaling_factor")))


def _native(file: RankReader, name: str, x: Array, rows: int) -> Array:
    scale = file.number(f"{name}.activation_scaling_factor")
    integers = as_int8(x * file.vector(f"{name}.prequant_scaling_factor", x.shape[-1]) / scale)
    product = file.times(integers, file.get(f"{name}.weight", rows, x.shape[-1]))
    return np.asarray(product * (scale * file.vector(f"{name}.weights_scaling_factor", rows)))


def _awq(file: RankReader, name: str, x: Array, rows: int) -> Array:
    columns = x.shape[-1]
    scales = file.get(f"{name}.weights_scaling_factor", rows, columns // file.group)

    def widen(packed: Array, first: int) -> Array:
        """Unpack rows: byte i of a column has the integer of row 2 i in its lower half, of row 2 i + 1 in its upper."""
        signed = packed.astype(np.int8)
        halves = np.stack([(signed.view(np.uint8) << 4).view(np.int8) >> 4, signed >> 4], 1)
        integers = halves.reshape(2 * len(packed), columns).astype(np.float32)
        return np.asarray(integers * np.repeat(scales[2 * first : 2 * first + len(integers)], file.group, -1))

    x = x * file.vector(f"{name}.prequant_scaling_factor", columns)
    return file.times(x, file.get(f"{name}.weight", rows // 2, columns), widen, 2)


def _smooth(file: RankReader, at: str, module: str, x: Array, rows: int) -> Array:
    name, columns = at + module, x.shape[-1]
    if module in ("attention.dense", "mlp.proj"):
        x = x / file.row(f"{name}.smoother", columns)
    weight = file.get(f"{name}.weight", rows, columns)
    one_a_row = "_PER_CHANNEL" in file.algo or module == "attention.qkv"
    scale = file.row(f"{name}.per_channel_scale", rows if one_a_row else 1)
    if file.algo.endswith("_PER_TOKEN_PLUGIN"):
        if module in _OWN_STEPS:
            x = x * file.number(at + _INTO_INTEGERS[module])
        largest = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-8))
        return np.asarray(file.times(as_int8(x * (127 / largest)), weight) * (largest / 127) * scale)
    integers = as_int8(x * file.number(at + _INTO_INTEGERS[module]))
    return np.asarray(file.times(integers, weight) * scale * file.row(f"{name}.act_scale", 1))
