"""Quantization schemes of target `vllm`: shards of a compressed-tensors model.

| scheme       | weight of a linear layer | weight_scale        | input                      | format of config.json |
|--------------|--------------------------|---------------------|----------------------------|-----------------------|
| smoothquant  | int8 [out, in]           | float32 [out, 1]    | int8, a scale for a token  | int-quantized         |
| fp8          | e4m3 [out, in]           | float32 [out, 1]    | e4m3, a scale for a token  | float-quantized       |

With static activations a layer has `input_scale` float32 [1], too; attention has constants (layout.py). Embedding,
head, norms and routers stay in floating point. Source: schemes/compressed_tensors_w8a8_{int8,fp8}.py of vLLM 0.32.0
(parameters before the kernels repack them).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compiler.errors import RefusedError
from compiler.quantization.formats import load, products
from compiler.quantization.schemes import FLOAT, SCHEMES
from compiler.quantization.vendors import COMPRESSED_TENSORS
from compiler.targets.vllm.architectures import row_for
from compiler.targets.vllm.copies import copies
from compiler.targets.vllm.version import version_of

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
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
        runs = ", ".join(f"`--quant {each.name}`" for each in SCHEMES.values() if _shared(each))
        raise RefusedError(
            f"target `vllm` does not quantize {config.architecture} by `{scheme.name}`: {reason}",
            hint=f"dense models are quantized by {runs}; `--target inductor` has other schemes",
        )
    product = load(scheme.weights).product(scheme.activation_scales)
    assert product is not None
    return quant, replace(options, scheme=product.name)


def _shared(scheme: Scheme) -> bool:
    return (
        scheme.weights in COMPRESSED_TENSORS
        and scheme.activations == scheme.weights
        and scheme.weight_scales == "channel"
    )


def _reason(config: ModelConfig, scheme: Scheme, options: VllmOptions) -> str:
    if not _shared(scheme):
        flags = f", one weight scale per {scheme.weight_scales}" if scheme.activations != FLOAT else ""
        return f"its shards have 8-bit weights with a scale per row and 8-bit inputs; found {scheme.weights}{flags}"
    if copied := copies(config, options):
        return copied
    row = row_for(config, version_of(options))
    if config.experts or config.kv_rank or row.mixed or row.turned:
        return "scales of experts, of latent attention and of alternating rows were not compared"
    if config.norms != "before":
        return "the gate computes this target's models with norms before blocks only"
    return ""


def with_quantization(config: bytes, scheme: str) -> bytes:
    """config.json `config` with the `quantization_config` of shards of `scheme`, a product's name."""
    form, product = products()[scheme]
    kind, name = COMPRESSED_TENSORS[form.name]
    of_weights: dict[str, Any] = {
        "num_bits": 8,
        "type": kind,
        "symmetric": True,
        "strategy": "channel",
        "dynamic": False,
    }
    token = product.activations == "token"
    of_inputs = {**of_weights, "strategy": "token" if token else "tensor", "dynamic": token}
    section = {
        "quant_method": "compressed-tensors",
        "format": name,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": of_weights, "input_activations": of_inputs}},
    }
    return (json.dumps({**json.loads(config), "quantization_config": section}, indent=2) + "\n").encode()
