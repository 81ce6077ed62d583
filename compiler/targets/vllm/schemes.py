"""Quantization schemes of target `vllm`: shards of a compressed-tensors model, see compressed.py.

Attention has constants (layout.py). Embedding, head, norms and routers stay in floating point.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.errors import RefusedError
from compiler.quantization.formats import load
from compiler.quantization.schemes import FLOAT, SCHEMES
from compiler.targets.vllm.architectures import row_for
from compiler.targets.vllm.compressed import PACKED
from compiler.targets.vllm.copies import copies
from compiler.targets.vllm.version import version_of

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.quantization.format import Product
    from compiler.quantization.request import Quant
    from compiler.quantization.schemes import Scheme
    from compiler.targets.vllm.options import VllmOptions


def quantized(config: ModelConfig, quant: Quant, options: VllmOptions) -> tuple[Quant, VllmOptions]:
    """Set the options' `scheme` from `quant`. Raises RefusedError for schemes and models without such shards."""
    if quant.cache:
        raise RefusedError(
            f"target `vllm` writes no scales of caches; found `--kv-cache {quant.cache}`",
            hint="leave `--kv-cache` out; vLLM quantizes a cache with scales of 1 by `--kv-cache-dtype`",
        )
    scheme = quant.scheme
    if scheme is None:
        return quant, options
    if reason := _reason(config, scheme, options):
        runs = ", ".join(f"`--quant {each.name}`" for each in SCHEMES.values() if _product(each))
        raise RefusedError(
            f"target `vllm` does not quantize {config.architecture} by `{scheme.name}`: {reason}",
            hint=f"dense models are quantized by {runs}; `--target inductor` has other schemes",
        )
    product = _product(scheme)
    assert product is not None
    return quant, replace(options, scheme=product.name)


def _product(scheme: Scheme) -> Product | None:
    """Product whose weights have shards: with floating-point inputs, or with those of the weights' own format."""
    if scheme.weight_scales == "tensor" or scheme.activations not in (FLOAT, scheme.weights):
        return None
    weight_only = scheme.activations == FLOAT
    found = load(scheme.weights).product("float" if weight_only else scheme.activation_scales)
    return found if found is not None and (found.name in PACKED or not weight_only) else None


def _reason(config: ModelConfig, scheme: Scheme, options: VllmOptions) -> str:
    if _product(scheme) is None:
        return f"its shards have a weight scale per row or group; found one per {scheme.weight_scales}"
    if copied := copies(config, options):
        return copied
    row = row_for(config, version_of(options))
    if config.experts or config.kv_rank or row.mixed or row.turned or row.gathered:
        return "scales of experts, of latent attention and of rows in another order were not compared"
    if config.norms != "before":
        return "the gate computes this target's models with norms before blocks only"
    return ""
