"""Which `quant_algo` runs a scheme, and what its kernels want of scales.

| scheme, its flags                       | dense, with a plugin's class   | other dense         | experts |
|-----------------------------------------|--------------------------------|---------------------|---------|
| int8-weight                             | W8A16                          | the same            | W8A16   |
| int4-weight                             | W4A16_AWQ                      | the same            | W4A16   |
| awq                                     | W4A16_AWQ                      | the same            | -       |
| fp8                                     | FP8                            | the same            | FP8     |
| smoothquant, per channel, per token     | W8A8_SQ_PER_CHANNEL_PER_TOKEN_ | W8A8_SQ_PER_CHANNEL | -       |
| smoothquant, per channel, per tensor    | W8A8_SQ_PER_CHANNEL_PER_TENSOR_| W8A8_SQ_PER_CHANNEL | -       |
| smoothquant, per tensor, per token      | W8A8_SQ_PER_TENSOR_PER_TOKEN_  | -                   | -       |
| smoothquant, per tensor, per tensor     | W8A8_SQ_PER_TENSOR_            | -                   | -       |

W8A16 and W4A16 store plain weights, which the loader rounds, row by row; rows of four bits lose too much, so dense
models take groups, with inputs multiplied by 1. FP8 has one scale a matrix and static activations, W8A8_SQ_PER_CHANNEL
static activations, whatever was asked: `scaling` says what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.quantization.request import Quant
from compiler.quantization.scaling import Scaling
from compiler.quantization.schemes import UNQUANTISED, Scheme
from compiler.targets.trtllm.architectures import Row, row_for
from compiler.targets.trtllm.layout import joined
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.version import version_of

NATIVE = "W8A8_SQ_PER_CHANNEL"


@dataclass(frozen=True)
class Runs:
    """`flags` of a scheme that the algo has, whatever was asked; `files`: fields of it as far as our files have them;
    `scaling`: fields of `Scaling` that it wants.
    """

    flags: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    scaling: Mapping[str, Any] = field(default_factory=dict)


_STATIC = {"activation_scales": "tensor"}
_UNROUNDED = {"weights": "float", "activations": "float", "search": ""}
_PLUGIN = Runs(scaling={"divides": "norms"})
RUNS: Mapping[str, Runs] = {
    "": Runs(files=_UNROUNDED),
    "W8A16": Runs(files=_UNROUNDED),
    "W4A16": Runs({"weight_scales": "channel"}, _UNROUNDED),
    "W4A16_AWQ": Runs(scaling={"divides": "inputs"}),
    "FP8": Runs({"weight_scales": "tensor", **_STATIC}, scaling={"one_scale": True}),
    NATIVE: Runs(_STATIC, scaling={"divides": "inputs"}),
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": _PLUGIN,
    "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN": _PLUGIN,
    "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN": _PLUGIN,
    "W8A8_SQ_PER_TENSOR_PLUGIN": _PLUGIN,
}
"""By quant_algo."""

_DENSE = {"int8-weight": "W8A16", "int4-weight": "W4A16_AWQ", "awq": "W4A16_AWQ", "fp8": "FP8"}
_EXPERTS = {"int8-weight": "W8A16", "int4-weight": "W4A16", "fp8": "FP8"}
_SMOOTH = {
    ("channel", "token"): "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    ("channel", "tensor"): "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    ("tensor", "token"): "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
    ("tensor", "tensor"): "W8A8_SQ_PER_TENSOR_PLUGIN",
}
"""By what weights and activations have a scale for."""


def quantised(config: ModelConfig, quant: Quant, options: TrtllmOptions) -> tuple[Quant, TrtllmOptions]:
    """`quant` as it runs, and `options` by the toolchain's names. Raises RefusedError."""
    row, _ = row_for(config, version_of(options))
    algo = "" if quant.scheme is None else _algo(config, row, quant.scheme)
    scheme = None if quant.scheme is None else replace(quant.scheme, **RUNS[algo].flags)
    return replace(quant, scheme=scheme), replace(options, quant_algo=algo, kv_cache_quant_algo=quant.cache.upper())


def scaling(config: ModelConfig, quant: Quant, options: TrtllmOptions) -> Scaling:
    """What is made of scales for what `quantised` gave."""
    runs = RUNS[options.quant_algo]
    scheme = replace(quant.scheme or UNQUANTISED, **runs.files)
    row, _ = row_for(config, version_of(options))
    return Scaling(scheme, joined=joined(row), cache=quant.cache, **runs.scaling)


def _algo(config: ModelConfig, row: Row, scheme: Scheme) -> str:
    if scheme.activations == "int8":
        return _smooth_quant(config, row, scheme)
    found = (_EXPERTS if config.experts else _DENSE).get(scheme.name)
    if found is None:
        raise RefusedError(
            f"TensorRT-LLM has no `{scheme.name}` for the experts of {config.architecture}",
            hint="use `--quant fp8`, `--quant int8-weight`, or `--target inductor`",
        )
    return found


def _smooth_quant(config: ModelConfig, row: Row, scheme: Scheme) -> str:
    if config.experts:
        raise RefusedError(
            f"TensorRT-LLM has no SmoothQuant for the experts of {config.architecture}",
            hint="use `--quant fp8` (8 bits, Hopper and Ada), `--quant int8-weight`, or `--target inductor`",
        )
    # What the plugin's classes do with one norm in front of attention and mlp, and with norms on q and k, is not
    # verified; the native layers are those of the float model.
    if row.smooth_quant and not (config.parallel_residual or config.qk_norm):
        return _SMOOTH[scheme.weight_scales, scheme.activation_scales]
    if scheme.weight_scales != "channel":
        raise RefusedError(
            f"TensorRT-LLM runs SmoothQuant of {config.architecture} with a scale a channel only",
            hint="leave `--no-per-channel` out",
        )
    return NATIVE
