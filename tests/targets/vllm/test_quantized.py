"""Quantized shards: the parameters of vLLM's compressed-tensors layers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import recipes
from compiler.artifact.manifest import load_manifest
from compiler.errors import RefusedError, ToolchainMissing
from compiler.pipeline.build import build
from compiler.pipeline.request import Ask, BuildRequest
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.schemes import quantized
from tests.tiny import model_config

TYPES = {"smoothquant": torch.int8, "fp8": torch.float8_e4m3fn}


@pytest.mark.parametrize("scheme", TYPES)
def test_quantized_shards_have_the_parameters_of_compressed_tensors(
    scheme: str, tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    """The judge of the build computes them; the gate is told to accept, as the tiny model is random."""
    output = tmp_path / "artifact"
    request = BuildRequest(
        model=str(tiny_checkpoint("qwen2")),
        recipes=recipes,
        target="vllm",
        ask=Ask(tp=2, quant=Quant(SCHEMES[scheme], accept=True)),
        output=output,
        cache=tmp_path / "cache",
    )
    with pytest.raises(ToolchainMissing):
        build(request)
    shard = load_file(output / "model-rank-1-part-0.safetensors")
    config = model_config("qwen2")
    layer = "model.layers.2.self_attn.qkv_proj"
    rows = (config.heads + 2 * config.kv_heads) * config.head_dim // 2
    assert (shard[f"{layer}.weight"].dtype, shard[f"{layer}.weight"].shape) == (TYPES[scheme], (rows, config.hidden))
    assert (shard[f"{layer}.weight_scale"].dtype, shard[f"{layer}.weight_scale"].shape) == (torch.float32, (rows, 1))
    assert shard["lm_head.weight"].dtype == shard[f"{layer}.bias"].dtype == torch.bfloat16
    attention = "model.layers.0.self_attn.attn"
    assert [shard[f"{attention}.{name}_scale"].tolist() for name in "kqv"] == [[1.0]] * 3
    assert [shard[f"{attention}.{name}_zero_point"].tolist() for name in "kqv"] == [[0.0]] * 3
    section = json.loads((output / "config.json").read_bytes())["quantization_config"]
    group = section["config_groups"]["group_0"]
    assert (section["quant_method"], section["ignore"]) == ("compressed-tensors", ["lm_head"])
    assert (group["weights"]["strategy"], group["input_activations"]["strategy"]) == ("channel", "token")
    assert group["input_activations"]["dynamic"] is True
    manifest = load_manifest(output)
    assert manifest.quantisation is not None
    assert manifest.numerics is not None


@pytest.mark.parametrize(
    ("case", "scheme", "reason"),
    [
        ("llama", "awq", "8-bit weights with a scale per row and 8-bit inputs; found int4"),
        ("llama", "int8-weight", "8-bit inputs; found int8"),
        ("mixtral", "fp8", "scales of experts"),
        ("gpt_neox", "smoothquant", "alternating rows"),
        ("gemma2", "fp8", "norms before blocks only"),
        ("internlm2", "fp8", "no layout of its shards is known"),
    ],
)
def test_other_schemes_and_models_are_refused_with_the_reason(case: str, scheme: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as caught:
        quantized(model_config(case), Quant(SCHEMES[scheme]), VllmOptions())
    assert "`--quant smoothquant`, `--quant fp8`" in caught.value.hint


def test_scales_per_matrix_and_of_caches_are_refused() -> None:
    coarse = replace(SCHEMES["fp8"], weight_scales="tensor")
    with pytest.raises(RefusedError, match="one weight scale per tensor"):
        quantized(model_config("llama"), Quant(coarse), VllmOptions())
    with pytest.raises(RefusedError, match="no scales of caches"):
        quantized(model_config("llama"), Quant(cache="fp8"), VllmOptions())
