"""Quantized checkpoints, written here in the formats of others: what they stand for, and that their integers stay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import recipes
from compiler.artifact.manifest import load_manifest
from compiler.cli.text import option_text, plan_text
from compiler.errors import CheckpointError, MemoryCeilingError, RefusedError, ToolchainMissing
from compiler.pipeline.alternatives import alternatives
from compiler.pipeline.build import build
from compiler.pipeline.convert_only import convert_to
from compiler.pipeline.located import plan_of
from compiler.pipeline.request import Ask, BuildRequest, PlanRequest, Resources
from compiler.pipeline.resolve import locate
from compiler.pipeline.steps.fetch import fetch
from compiler.quantization.prequantized.formats import packed
from compiler.quantization.request import Quant, scheme_of
from compiler.quantization.schemes import SCHEMES, Tolerance
from compiler.runtime.section import Segments
from compiler.targets import load
from tests.quantization import numpy_int4
from tests.quantization.foreign import AWQ, FP8, GPTQ, INT8, TOKENS, WAYS, quantized
from tests.stand_in import StandIn

LOOSE = Tolerance(perplexity=10, kl=10, stream=10)


def _request(folder: Path, cache: Path, quant: str = "none", **fields: Any) -> PlanRequest:
    ask = Ask(tp=fields.pop("tp", 1), dtype=fields.pop("dtype", None), quant=Quant(scheme_of(quant)))
    return PlanRequest(model=str(folder), recipes=recipes, ask=ask, cache=cache, **fields)


@pytest.mark.parametrize("way", WAYS)
def test_the_weights_are_what_the_numbers_stand_for(way: str, tmp_path: Path) -> None:
    expected = quantized(tmp_path / "model", way)
    convert_to(_request(tmp_path / "model", tmp_path / "cache"), tmp_path / "out")
    rank = load_file(tmp_path / "out" / "weights" / "rank0.safetensors")
    for layer in range(3):
        before = f"model.layers.{layer}."
        for name, modules in {
            "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
            "mlp.down": ("mlp.down_proj",),
        }.items():
            wanted = torch.cat([expected[before + module] for module in modules])
            assert torch.equal(rank[f"layers.{layer}.{name}.weight"], wanted.half()), name


@pytest.mark.parametrize("target", ["inductor", "trtllm"])
def test_integers_of_gptq_are_those_of_the_packed_ranks(target: str, tmp_path: Path) -> None:
    """With the checkpoint's own scales, whatever the ranks. TensorRT-LLM: two rows a byte; inductor: two columns."""
    quantized(tmp_path / "model", "gptq")
    source = load_file(tmp_path / "model" / "model.safetensors")
    module = "model.layers.1.mlp.down_proj"
    axis, folder, weight, scale = {
        "inductor": (-1, "weights", "layers.1.mlp.down.weight", "scale"),
        "trtllm": (0, "", "transformer.layers.1.mlp.proj.weight", "weights_scaling_factor"),
    }[target]
    for tp in (1, 2):
        request = _request(tmp_path / "model", tmp_path / "cache", "int4-weight", tp=tp, target=target)
        convert_to(request, tmp_path / f"{tp}")
        ranks = [load_file(tmp_path / f"{tp}" / folder / f"rank{rank}.safetensors") for rank in range(tp)]
        integers = np.concatenate([numpy_int4.unpack(rank[weight].numpy().view(np.uint8), axis) for rank in ranks], 1)
        scales = torch.cat([rank[weight.replace("weight", scale)] for rank in ranks], 1)
        words = source[f"{module}.qweight"].numpy()
        stored = np.stack([words >> shift & 15 for shift in range(0, 32, 4)], 1).reshape(-1, words.shape[1]).T - 8
        np.testing.assert_array_equal(integers, stored)
        assert torch.equal(scales.float(), source[f"{module}.scales"].T.float())


@pytest.mark.parametrize("target", ["inductor", "trtllm"])
def test_integers_of_compressed_tensors_stay(target: str, tmp_path: Path) -> None:
    quantized(tmp_path / "model", "int8")
    source = load_file(tmp_path / "model" / "model.safetensors")
    convert_to(_request(tmp_path / "model", tmp_path / "cache", "smoothquant", target=target, tp=2), tmp_path / "out")
    folder = tmp_path / "out" / ("weights" if target == "inductor" else "")
    ranks = [load_file(folder / f"rank{rank}.safetensors") for rank in range(2)]
    module = "model.layers.2.mlp.down_proj"
    weight, scale = {
        "inductor": ("layers.2.mlp.down.weight", "layers.2.mlp.down.scale"),
        "trtllm": ("transformer.layers.2.mlp.proj.weight", "transformer.layers.2.mlp.proj.per_channel_scale"),
    }[target]
    integers = torch.cat([rank[weight] for rank in ranks], 1)
    assert torch.equal(integers, source[f"{module}.weight"])
    assert integers.min() == -128
    wanted = source[f"{module}.weight_scale"].float().ravel()
    torch.testing.assert_close(ranks[1][scale].ravel(), wanted, rtol=1e-6, atol=0)


def test_float8_of_compressed_tensors_stays_and_runs(tmp_path: Path) -> None:
    """Each q, k and v has its own scale: TensorRT-LLM, which takes one for all three, would round them anew."""
    (group,) = FP8["config_groups"].values()
    dynamic = {**group, "input_activations": {**TOKENS, "type": "float"}}
    expected = quantized(tmp_path / "model", "fp8", config_groups={"group_0": dynamic})
    source = load_file(tmp_path / "model" / "model.safetensors")
    ask = Ask(tp=2, quant=Quant(replace(SCHEMES["fp8"], tolerance=LOOSE)))
    request = BuildRequest(model=str(tmp_path / "model"), recipes=recipes, output=tmp_path / "out", ask=ask,
                           cache=tmp_path / "cache")  # fmt: skip
    build(request, toolchain=StandIn())
    manifest = load_manifest(tmp_path / "out")
    assert isinstance(manifest.section, Segments)
    assert manifest.section.products == "fp8_per_token"
    ranks = [load_file(tmp_path / "out" / file) for file in manifest.section.weights]
    values = torch.cat([rank["layers.1.mlp.down.weight"] for rank in ranks], 1)
    name = "model.layers.1.mlp.down_proj"
    assert values.dtype == torch.float8_e4m3fn
    assert torch.equal(values.float(), source[f"{name}.weight"].float())
    torch.testing.assert_close(values.float() * ranks[0]["layers.1.mlp.down.scale"][:, None], expected[name])
    assert manifest.quantisation is not None
    assert manifest.quantisation.gate.cosine > 0.99  # activations alone are rounded
    with pytest.raises(RefusedError, match="`fp8` with a scale per tensor would round it a second time"):
        build(replace(request, target="trtllm", output=tmp_path / "engines"))


def test_a_plan_says_what_the_source_is_and_what_may_be_made_of_it(tmp_path: Path) -> None:
    quantized(tmp_path / "model", "gptq")
    plan = plan_of(_request(tmp_path / "model", tmp_path / "cache", target="trtllm"))
    assert "quantized by GPTQ, dequantized; `--quant int4-weight` keeps its integers" in plan_text(plan)
    refused = {option_text(one.quant) for one in alternatives(plan, load("trtllm")) if "a second time" in one.refused}
    assert refused == {f"--quant {name}" for name in ("int8-weight", "gptq", "awq", "smoothquant", "fp8")}


def test_a_plan_reads_headers_and_rewriting_happens_once(tmp_path: Path) -> None:
    quantized(tmp_path / "model", "gptq")
    request = _request(tmp_path / "model", tmp_path / "cache")
    found = locate(request).checkpoint
    name = "model.layers.0.mlp.up_proj.weight"
    assert (found.tensors[name].dtype, found.tensors[name].shape, found.tensors[name].file) == ("F16", (512, 256), None)
    assert not (tmp_path / "cache" / "unpacked").exists()
    first = fetch(request).checkpoint.tensors[name].file
    assert first is not None
    stat = first.stat()
    assert fetch(request).checkpoint.tensors[name].file == first
    assert first.stat() == stat
    # A damaged rewrite is made again.
    first.write_bytes(b"\0" * 100)
    assert fetch(request).checkpoint.tensors[name].file == first
    assert first.stat().st_size == stat.st_size


@pytest.mark.parametrize(
    ("config", "words", "remedy"),
    [
        ({**GPTQ, "desc_act": True}, "act-order", "revision without act-order"),
        ({**GPTQ, "bits": 3}, "4 bits in format gptq; found 3", "quantize the original model"),
        ({**GPTQ, "bits": 2}, "4 bits in format gptq; found 2", "quantize the original model"),
        ({**GPTQ, "group_size": 100}, "multiple of 8 .*found `group_size` 100", "quantize the original model"),
        ({**AWQ, "group_size": 0}, "multiple of 8 .*found `group_size` 0", "quantize the original model"),
        ({**GPTQ, "dynamic": {"-:.*down.*": {}}}, "one format for all modules", "quantize the original model"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "found 4 in marlin", "quantize the original model"),
        ({**AWQ, "version": "gemv"}, "version gemm; found 4 in gemv", "quantize the original model"),
        (
            {"quant_method": "bitsandbytes"},
            "by `bitsandbytes`; expected one of gptq, awq",
            "quantize the original model",
        ),
        ({**INT8, "format": "pack-quantized"}, "found pack-quantized, 1 group", "quantize the original model"),
        ({**INT8, "config_groups": {}}, "found int-quantized, 0 group", "quantize the original model"),
    ],
)
def test_a_format_that_is_not_read_is_refused_with_the_remedy(config: dict[str, Any], words: str, remedy: str) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        packed({"quantization_config": config})
    assert remedy in caught.value.hint


@pytest.mark.parametrize(("way", "scheme"), [("gptq", "int8-weight"), ("awq", "int4-weight"), ("fp8", "smoothquant")])
def test_no_checkpoint_is_rounded_twice(way: str, scheme: str, tmp_path: Path) -> None:
    quantized(tmp_path / "model", way)
    with pytest.raises(RefusedError, match=f"`{scheme}` with a scale per .* would round it a second time") as caught:
        convert_to(_request(tmp_path / "model", tmp_path / "cache", scheme), tmp_path / "out")
    kept = "`--quant int4-weight` with a scale per group of 128 keeps its integers" in caught.value.hint
    assert kept == (way == "gptq")


def test_zero_points_that_the_configuration_denies(tmp_path: Path) -> None:
    quantized(tmp_path / "model", "gptq")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.qzeros"] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"`model.layers.1.mlp.up_proj`: config.json has `sym`"):
        fetch(_request(tmp_path / "model", tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("*.safetensors*"))
    # Without that claim they are taken as they are.
    config = tmp_path / "model" / "config.json"
    hf = json.loads(config.read_text())
    hf["quantization_config"]["sym"] = False
    config.write_text(json.dumps(hf))
    found = fetch(replace(_request(tmp_path / "model", tmp_path / "cache"))).checkpoint
    assert found.own == {}


def test_groups_that_do_not_fill_a_row_are_refused_by_the_plan(tmp_path: Path) -> None:
    quantized(tmp_path / "model", "gptq", group_size=96)
    with pytest.raises(RefusedError, match="needs columns that divide into groups of 96; found 512"):
        plan_of(_request(tmp_path / "model", tmp_path / "cache"))


def test_an_order_that_the_configuration_denies(tmp_path: Path) -> None:
    quantized(tmp_path / "model", "gptq")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.2.mlp.down_proj.g_idx"] = tensors["model.layers.2.mlp.down_proj.g_idx"].flip(0)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"`model.layers.2.mlp.down_proj`: `g_idx` scatters the groups"):
        fetch(_request(tmp_path / "model", tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("*.safetensors*"))


@pytest.mark.parametrize("way", WAYS)
def test_a_small_ceiling_unpacks_the_same_and_progress_is_told(way: str, tmp_path: Path) -> None:
    quantized(tmp_path / "model", way)
    request, told = _request(tmp_path / "model", tmp_path / "cache"), list[tuple[int, int, str]]()
    low = replace(request, resources=Resources(max_memory=8 * 4 * 12 * 512), cache=tmp_path / "low")
    files = []
    for one in (request, low):
        told.clear()
        name = "model.layers.0.mlp.up_proj.weight"
        found = fetch(one, lambda *all_of_it: told.append(all_of_it)).checkpoint
        file = found.tensors[name].file
        assert file is not None
        assert (
            told[-1][0]
            == told[-1][1]
            == file.stat().st_size - min(t.offset for t in found.tensors.values() if t.file == file)
        )
        assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
        files.append([path.read_bytes() for path in sorted(file.parent.iterdir())])
    assert files[0] == files[1]
    assert len(told) > 100  # eight rows at a time
    with pytest.raises(MemoryCeilingError, match="unpacking 8 rows") as caught:
        fetch(replace(low, resources=Resources(max_memory=1 << 14), cache=tmp_path / "none"))
    assert "--max-memory" in caught.value.hint


@pytest.mark.parametrize(("way", "scheme"), [("gptq", "int4-weight"), ("int8", "smoothquant"), ("awq", "none")])
def test_a_build_for_tensorrt_llm_loses_next_to_nothing_more(way: str, scheme: str, tmp_path: Path) -> None:
    """Against the weights that the numbers stand for: activations alone are rounded, and only by int8."""
    quantized(tmp_path / "model", way)
    request = BuildRequest(
        model=str(tmp_path / "model"), recipes=recipes, target="trtllm", output=tmp_path / "out",
        ask=Ask(tp=2, quant=Quant(scheme_of(scheme))), cache=tmp_path / "cache",
    )  # fmt: skip
    with pytest.raises(ToolchainMissing):
        build(request)
    manifest = load_manifest(tmp_path / "out")
    assert manifest.numerics is not None
    assert manifest.numerics.kl_median < {"gptq": 1e-3, "int8": 2e-2, "awq": 1e-3}[way]
    found = manifest.quantisation
    assert (found.scheme if found else "none") == scheme
    assert found is None or (found.search == "" and found.calibration is None)
