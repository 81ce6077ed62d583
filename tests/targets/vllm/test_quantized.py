"""Quantized shards: the parameters of vLLM's compressed-tensors layers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import recipes
from compiler.artifact.manifest import Manifest, load_manifest
from compiler.errors import RefusedError, ToolchainMissing
from compiler.pipeline.build import build
from compiler.pipeline.request import Ask, BuildRequest
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.schemes import quantized
from tests.quantization import foreign
from tests.tiny import model_config, write_checkpoint

WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": 2}
"""Rows of whole groups of 128 on each of two ranks."""
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


@pytest.mark.parametrize(("scheme", "bits"), [("int4-weight", 4), ("awq", 4), ("int8-weight", 8)])
def test_packed_shards_are_the_words_that_compressed_tensors_unpacks(
    scheme: str, bits: int, tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    """Both ranks' words, times their scales, are the weights within half a unit; `awq` scales columns besides."""
    model = write_checkpoint("llama", tmp_path / "model", **WIDE)
    output = tmp_path / "artifact"
    made = quantized_build(model, scheme, output, tmp_path / "cache")
    config = json.loads((output / "config.json").read_bytes())["quantization_config"]
    weights = config["config_groups"]["group_0"]["weights"]
    assert (config["format"], weights["num_bits"], weights["symmetric"]) == ("pack-quantized", bits, True)
    assert config["config_groups"]["group_0"]["input_activations"] is None
    assert made.quantisation is not None
    source = load_file(model / "model.safetensors")
    shards = [load_file(output / f"model-rank-{rank}-part-0.safetensors") for rank in range(2)]
    name = "model.layers.1.mlp.down_proj"
    halves = source[f"{name}.weight"].float().chunk(2, 1)
    for shard, half in zip(shards, halves, strict=True):
        words, scale = shard[f"{name}.weight_packed"], shard[f"{name}.weight_scale"].float()
        assert (words.dtype, words.shape) == (torch.int32, (half.shape[0], half.shape[1] * bits // 32))
        assert shard[f"{name}.weight_scale"].dtype == torch.bfloat16
        assert shard[f"{name}.weight_shape"].tolist() == [0, 0]
        assert f"{name}.weight" not in shard
        found = unpack_words(words, bits).float()
        assert found.min() >= -(1 << bits - 1)
        size = half.shape[1] // scale.shape[1]
        unit = scale.repeat_interleave(size, 1)
        if scheme != "awq":
            assert ((found * unit - half).abs() <= 0.51 * unit + half.abs() / 256).all()


def unpack_words(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers in the words [out, n], as `unpack_from_int32` of compressed-tensors 0.15 defines them."""
    each = [words >> shift & (1 << bits) - 1 for shift in range(0, 32, bits)]
    return torch.stack(each, -1).flatten(1) - (1 << bits - 1)


def quantized_build(model: Path, scheme: str, output: Path, cache: Path) -> Manifest:
    request = BuildRequest(
        model=str(model),
        recipes=recipes,
        target="vllm",
        ask=Ask(tp=2, quant=Quant(SCHEMES[scheme], accept=True)),
        output=output,
        cache=cache,
        until="judge",
    )
    built = build(request).manifest
    assert built is not None
    return built


@pytest.mark.parametrize(
    ("case", "scheme", "reason"),
    [
        ("mixtral", "fp8", "scales of experts"),
        ("deepseek_v3", "int4-weight", "of latent attention"),
        ("gpt_neox", "smoothquant", "rows in another order"),
        ("glm", "awq", "rows in another order"),
        ("gemma2", "fp8", "norms before blocks only"),
        ("mpt", "fp8", "no layout of its shards is known"),
    ],
)
def test_models_without_quantized_shards_are_refused_with_the_reason(case: str, scheme: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as caught:
        quantized(model_config(case), Quant(SCHEMES[scheme]), VllmOptions())
    assert "`--quant smoothquant`, `--quant fp8`" in caught.value.hint


def test_scales_per_matrix_and_of_caches_are_refused() -> None:
    coarse = replace(SCHEMES["fp8"], weight_scales="tensor")
    with pytest.raises(RefusedError, match="found one per tensor"):
        quantized(model_config("llama"), Quant(coarse), VllmOptions())
    with pytest.raises(RefusedError, match="no scales of caches"):
        quantized(model_config("llama"), Quant(cache="fp8"), VllmOptions())


def test_a_checkpoint_of_gptq_keeps_its_integers_as_compressed_tensors(tmp_path: Path) -> None:
    foreign.quantized(tmp_path / "model", "gptq")
    output = tmp_path / "artifact"
    quantized_build(tmp_path / "model", "int4-weight", output, tmp_path / "cache")
    source = load_file(tmp_path / "model" / "model.safetensors")
    shard = load_file(output / "model-rank-1-part-0.safetensors")
    qweight = source["model.layers.0.mlp.up_proj.qweight"]
    each = torch.stack([qweight >> shift & 15 for shift in range(0, 32, 4)], 1).flatten(0, 1).T - 8
    rows = each.shape[0] // 2
    found = unpack_words(shard["model.layers.0.mlp.gate_up_proj.weight_packed"], 4)
    assert (found[rows:] == each[rows:]).all()
    scales = source["model.layers.0.mlp.up_proj.scales"].T
    torch.testing.assert_close(shard["model.layers.0.mlp.gate_up_proj.weight_scale"][rows:], scales[rows:])
    assert json.loads((output / "config.json").read_bytes())["quantization_config"]["format"] == "pack-quantized"


@pytest.mark.parametrize("weights", ["auto", "plain"])
def test_a_checkpoint_of_awq_is_dequantized_or_packed_as_it_is(weights: str, tmp_path: Path) -> None:
    foreign.quantized(tmp_path / "model", "awq")
    (tmp_path / "model" / "quantize_config.json").write_text("{}")
    output = tmp_path / "artifact"
    request = BuildRequest(
        model=str(tmp_path / "model"),
        recipes=recipes,
        target="vllm",
        ask=Ask(options=VllmOptions(weights=weights)),
        output=output,
        cache=tmp_path / "cache",
        until="judge",
    )
    build(request)
    config = json.loads((output / "config.json").read_bytes())
    if weights == "plain":
        assert config["quantization_config"]["quant_method"] == "awq"
        assert (output / "quantize_config.json").is_file()
        packed, source = (load_file(folder / "model.safetensors") for folder in (output, tmp_path / "model"))
        assert packed.keys() == source.keys()
        assert all(torch.equal(packed[name], source[name]) for name in source)
    else:
        assert "quantization_config" not in config
        shard = load_file(output / "model-rank-0-part-0.safetensors")
        assert shard["model.layers.0.mlp.gate_up_proj.weight"].dtype == torch.float16
