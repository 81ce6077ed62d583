"""Checkpoints published in blocks, DeepSeek-V3's fp8 and gpt-oss' mxfp4: values are those of other implementations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import recipes
from compiler.errors import CheckpointError, RefusedError
from compiler.pipeline.convert_only import convert_to
from compiler.pipeline.request import Ask, PlanRequest, Resources
from compiler.pipeline.steps.fetch import fetch
from compiler.quantization.prequantized.formats import packed
from tests.tiny import write_checkpoint

OSS: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 64}
EXPERTS = "model.layers.{}.mlp.experts."


def _request(folder: Path, cache: Path, **fields: Any) -> PlanRequest:
    return PlanRequest(model=str(folder), recipes=recipes, ask=Ask(**fields), cache=cache)


def _rewrite(folder: Path, tensors: dict[str, Tensor], **keys: Any) -> None:
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    hf = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**hf, **keys}))


def _converted(folder: Path, out: Path, **fields: Any) -> list[dict[str, Tensor]]:
    convert_to(_request(folder, out.parent / "cache", **fields), out)
    return [load_file(path) for path in sorted((out / "weights").iterdir())]


def _mxfp4(folder: Path) -> dict[str, Tensor]:
    """A gpt-oss checkpoint in mxfp4; the same tensors in bfloat16, as transformers dequantizes them."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    write_checkpoint("gpt_oss", folder, **OSS)
    rng, tensors = torch.Generator().manual_seed(2), load_file(folder / "model.safetensors")
    plain = dict(tensors)
    for layer in range(3):
        for name in ("gate_up_proj", "down_proj"):
            stem = EXPERTS.format(layer) + name
            experts, inner, rows = tensors.pop(stem).shape
            blocks = torch.randint(0, 256, (experts, rows, inner // 32, 16), generator=rng, dtype=torch.uint8)
            scales = torch.randint(100, 126, blocks.shape[:-1], generator=rng, dtype=torch.uint8)
            tensors |= {f"{stem}_blocks": blocks, f"{stem}_scales": scales}
            plain[stem] = convert_moe_packed_tensors(blocks, scales)
    skipped = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    _rewrite(folder, tensors, quantization_config=skipped)
    return plain


@pytest.mark.parametrize("tp", [1, 2])
def test_experts_in_mxfp4_are_those_that_transformers_dequantizes(tp: int, tmp_path: Path) -> None:
    plain = _mxfp4(tmp_path / "mxfp4")
    write_checkpoint("gpt_oss", tmp_path / "plain", **OSS)
    _rewrite(tmp_path / "plain", plain)
    found, expected = (_converted(tmp_path / name, tmp_path / f"out-{name}", tp=tp) for name in ("mxfp4", "plain"))
    assert len(found) == tp
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
        assert one["layers.0.moe.down.weight"].dtype == torch.bfloat16


def test_mxfp4_is_unpacked_the_same_under_a_small_ceiling(tmp_path: Path) -> None:
    _mxfp4(tmp_path / "model")
    found = []
    for name, memory in (("low", 8 * 4 * 12 * 96), ("high", 1 << 30)):
        request = _request(tmp_path / "model", tmp_path / name)
        checkpoint = fetch(PlanRequest(**{**vars(request), "resources": Resources(max_memory=memory)})).checkpoint
        file = checkpoint.tensors[EXPERTS.format(0) + "gate_up_proj_blocks"].file
        assert file is not None
        found.append(file.read_bytes())
    assert found[0] == found[1]


def _fp8(folder: Path, size: tuple[int, int]) -> dict[str, Tensor]:
    """A DeepSeek-V3 checkpoint whose linear layers are float8 with a scale for each block; its weights by name."""
    write_checkpoint("deepseek_v3", folder)
    rng, tensors, expected = torch.Generator().manual_seed(3), load_file(folder / "model.safetensors"), {}
    for name in [n for n in tensors if n.endswith("_proj.weight") or "kv_a_proj" in n]:
        rows, columns = tensors[name].shape
        values = torch.randn((rows, columns), generator=rng).to(torch.float8_e4m3fn)
        scale = torch.rand((-(-rows // size[0]), -(-columns // size[1])), generator=rng) / 16
        tensors |= {name: values, name.replace(".weight", ".weight_scale_inv"): scale}
        spread = scale.repeat_interleave(size[0], 0).repeat_interleave(size[1], 1)[:rows, :columns]
        expected[name] = (values.float() * spread).bfloat16()
    _rewrite(
        folder, tensors, quantization_config={"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(size)}
    )
    return expected


@pytest.mark.parametrize("size", [(128, 128), (7, 16)])
def test_blocks_of_float8_are_multiplied_by_their_scales(size: tuple[int, int], tmp_path: Path) -> None:
    expected = _fp8(tmp_path / "model", size)
    (rank,) = _converted(tmp_path / "model", tmp_path / "out")
    layer = "model.layers.1."
    torch.testing.assert_close(
        rank["layers.1.attn.o.weight"], expected[f"{layer}self_attn.o_proj.weight"], rtol=0, atol=0
    )
    gate, up = (
        torch.stack([expected[f"{layer}mlp.experts.{e}.{name}_proj.weight"] for e in range(12)])
        for name in ("gate", "up")
    )
    assert torch.equal(rank["layers.1.moe.gate_up.weight"], torch.cat((gate, up), 1))
    assert rank["layers.1.moe.correction.weight"].dtype == torch.float32


def test_scales_of_other_blocks_are_refused(tmp_path: Path) -> None:
    _fp8(tmp_path / "model", (7, 16))
    hf = json.loads((tmp_path / "model" / "config.json").read_text())
    hf["quantization_config"]["weight_block_size"] = [128, 128]
    (tmp_path / "model" / "config.json").write_text(json.dumps(hf))
    with pytest.raises(CheckpointError, match=r"a scale for each block of \[128, 128\]"):
        fetch(_request(tmp_path / "model", tmp_path / "cache"))


@pytest.mark.parametrize("size", [None, 128, [128], [0, 128]])
def test_float8_without_blocks_is_refused(size: object) -> None:
    with pytest.raises(RefusedError, match="with `weight_block_size`"):
        packed({"quantization_config": {"quant_method": "fp8", "weight_block_size": size}})
