"""The `quant_algo` of a scheme, and the scales that its kernels need (`compiler.quantization.vendors`).

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

FP8 always has one scale per matrix and static activation scales, W8A8_SQ_PER_CHANNEL static activation scales:
`quantized` sets the scheme's flags accordingly.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.quantization.formats import load
from compiler.quantization.request import Quant
from compiler.quantization.scaling import Scaling
from compiler.quantization.schemes import FLOAT, SCHEMES, UNQUANTIZED, UNSEARCHED, Scheme
from compiler.quantization.vendors import NATIVE, VENDOR_SCHEMES, VendorScheme
from compiler.targets.trtllm.architectures import ArchitectureRow, row_for
from compiler.targets.trtllm.layout import joined
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.version import version_of

GROUP_SIZES = (128, 64)
"""Sizes of groups of its groupwise kernels (weight_only_groupwise_quant_matmul)."""


def quantized(config: ModelConfig, quant: Quant, options: TrtllmOptions) -> tuple[Quant, TrtllmOptions]:
    """`quant` with the flags that run, and `options` with the toolchain's names. Raises RefusedError."""
    options = replace(options, quant_algo="", kv_cache_quant_algo=quant.cache.upper())
    if quant.scheme is None:
        return quant, options
    row, _ = row_for(config, version_of(options))
    found = _vendor_scheme(config, row, quant.scheme)
    scheme = replace(quant.scheme, **found.flags)
    named = replace(options, quant_algo=found.name, group_size=scheme.group or TrtllmOptions.group_size)
    return replace(quant, scheme=scheme), named


def scaling(config: ModelConfig, quant: Quant, options: TrtllmOptions) -> Scaling:
    """Scales to compute, for the result of `quantized`."""
    row, _ = row_for(config, version_of(options))
    scheme, found = quant.scheme, VENDOR_SCHEMES.get(options.quant_algo)
    if scheme is None or found is None:
        return Scaling(UNQUANTIZED, joined=joined(row), cache=quant.cache)
    if found.rounded_at_load:
        scheme = replace(scheme, weights=FLOAT, activations=FLOAT, search=UNSEARCHED)
    return Scaling(scheme, found.divides, joined(row), found.one_scale, quant.cache)


def _vendor_scheme(config: ModelConfig, row: ArchitectureRow, scheme: Scheme) -> VendorScheme:
    rows = [found for found in VENDOR_SCHEMES.values() if found.runs(scheme, experts=config.experts > 0)]
    if not rows:
        raise _refused(config, scheme)
    if not rows[0].smooths:
        return rows[0]
    # The plugin's classes are not verified with one norm for attention and mlp, or with norms on q and k; the native
    # layers are those of the float model.
    if row.smooth_quant and not (config.parallel_residual or config.qk_norm):
        flags = {"weight_scales": scheme.weight_scales, "activation_scales": scheme.activation_scales}
        return next(found for found in rows if found.plugin and found.flags == flags)
    if scheme.weight_scales != "channel":
        raise RefusedError(
            f"TensorRT-LLM runs SmoothQuant of {config.architecture} only with one scale per channel",
            hint="leave `--no-per-channel` out",
        )
    return VENDOR_SCHEMES[NATIVE]


def _refused(config: ModelConfig, scheme: Scheme) -> RefusedError:
    runs = [
        f"`--quant {other.name}`"
        for other in reversed(SCHEMES.values())
        if load(other.weights).bits == 8
        and any(found.runs(other, experts=config.experts > 0) for found in VENDOR_SCHEMES.values())
    ]
    name = f"`{scheme.name}`" if scheme.activations == FLOAT else "SmoothQuant"
    layers = f"the experts of {config.architecture}" if config.experts else config.architecture
    return RefusedError(
        f"TensorRT-LLM has no {name} for {layers}", hint=f"use {', '.join(runs)}, or `--target inductor`"
    )
