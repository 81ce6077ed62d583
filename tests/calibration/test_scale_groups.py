"""Groups of neighbours that share a scale, and the search for the columns that AWQ multiplies."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from torch import Tensor

from compiler.calibration.scales import RESULT, make_scales, with_scales
from compiler.model.roles import TensorId, linear_axes
from compiler.pipeline.rank_files import convert
from compiler.quantization.format import group_maxima
from compiler.quantization.formats import int4
from compiler.quantization.scale_tensors import scale_tensors
from compiler.quantization.scaling import Scaling
from compiler.quantization.schemes import SCHEMES
from compiler.storage.files.digest import sha256_file
from compiler.targets.trtllm.layout import rank_plans
from compiler.targets.trtllm.options import TrtllmOptions
from tests.calibration.test_activations import Opened, opened
from tests.calibration.test_scales import maxima_of
from tests.quantization import numpy_int4
from tests.tiny import write_checkpoint
from tests.weights import canonical_weights

Values = np.ndarray

WIDE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
INT4 = SCHEMES["int4-weight"]


def _unpacked(model: Opened, ranks: list[dict[str, Tensor]]) -> dict[str, Values]:
    """Four-bit weights of the ranks of a TensorRT-LLM checkpoint, dequantized: the columns of row-parallel modules side
    by side, the rows of all others one below the other.
    """
    found = {}
    for name in ranks[0]:
        if f"{name}s_scaling_factor" in ranks[0]:
            integers = [numpy_int4.unpack(rank[name].numpy().view(np.uint8), 0) for rank in ranks]
            scales = [rank[f"{name}s_scaling_factor"].numpy() for rank in ranks]
            parts = [numpy_int4.dequantize(i, s) for i, s in zip(integers, scales, strict=True)]
            found[name] = np.concatenate(parts, 1 if "dense" in name or "proj" in name else 0)
    return found


def test_groups_of_a_row_are_sharded_with_it(tmp_path: Path) -> None:
    model = opened(write_checkpoint("llama", tmp_path / "model", dtype="float32", **WIDE))
    scaling = Scaling(INT4, "inputs")
    make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=scaling)
    tensors, checkpoint = with_scales(model.tensors, model.checkpoint, tmp_path / RESULT)
    weights = canonical_weights(model.checkpoint.folder)
    options, coming = TrtllmOptions(quant_algo="W4A16_AWQ"), scale_tensors(model.config, model.tensors, scaling)
    found = []
    for tp in (1, 2, 4):
        plans = rank_plans(model.config, tp, tensors, "F32", options)
        # What is planned before there are scales is what is written with them.
        early = rank_plans(model.config, tp, {**model.tensors, **coming}, "F32", options)
        assert [[(n, t.dtype, t.stored_shape) for n, t in p.tensors] for p in plans] == [
            [(n, t.dtype, t.stored_shape) for n, t in p.tensors] for p in early
        ]
        convert(plans, checkpoint, tmp_path / f"{tp}", max_memory=1 << 20)
        found.append(_unpacked(model, [load_torch(tmp_path / f"{tp}" / plan.file) for plan in plans]))
    for name, values in found[0].items():
        if "qkv" not in name:  # whose ranks have rows of q, of k, of v
            assert all(np.array_equal(values, other[name]) for other in found[1:]), name
    name = "transformer.layers.1.mlp.proj.weight"
    weight = weights[TensorId("mlp.down", "weight", 1)]
    scales = np.repeat(int4.scales(group_maxima(weight, 128)), 128, -1)
    assert (np.abs(found[0][name] - weight) <= 0.505 * scales).all()


def test_scales_of_groups_lose_nothing_in_bfloat16(tmp_path: Path) -> None:
    model = opened(write_checkpoint("llama", tmp_path / "model", **WIDE))
    make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=Scaling(INT4))
    scales = torch.from_numpy(load_file(tmp_path / RESULT)["layers.0.mlp.up.group_scale"])
    assert scales.shape == (512, 2)
    assert torch.equal(scales.bfloat16().float(), scales)


AWQ = SCHEMES["awq"]


def _errors(model: Opened, folder: Path, scaling: Scaling) -> dict[TensorId, float]:
    """Of every layer: mean square of its output's error over the text, if its columns were independent."""
    folder.mkdir()
    maxima = maxima_of(model, folder / "maxima")
    make_scales(model.config, model.tensors, model.checkpoint, folder, scaling=scaling, maxima=maxima)
    parts, weights = load_file(folder / RESULT), canonical_weights(model.checkpoint.folder)
    found = {}
    for tensor, weight in weights.items():
        if f"{str(tensor).removesuffix('weight')}group_scale" not in parts:
            continue
        name, inner = str(tensor).removesuffix("weight"), len(linear_axes(tensor.role)[2])
        matrix = weight.reshape(-1, np.prod(weight.shape[-inner:]))
        s = parts.get(f"{name}columns", np.ones(matrix.shape[-1], np.float32)).ravel()
        steps = parts[f"{name}group_steps"].reshape(len(matrix), -1)
        off = int4.rounded(matrix * s * np.repeat(steps, 128, -1)) / np.repeat(steps, 128, -1) / s - matrix
        found[tensor] = float((np.square(off) * maxima[f"{name}squares"].ravel()).sum())
    return found


@pytest.mark.parametrize("scaling", [Scaling(AWQ), Scaling(AWQ, "inputs")], ids=["folded", "inputs"])
def test_awq_makes_no_layer_worse_and_most_better(scaling: Scaling, tmp_path: Path) -> None:
    model = opened(write_checkpoint("llama", tmp_path / "model", **WIDE))
    plain = _errors(model, tmp_path / "plain", replace(scaling, scheme=INT4))
    found = _errors(model, tmp_path / "awq", scaling)
    assert found.keys() == plain.keys()
    # Of layers that share s, one may lose a little of what the others win.
    assert all(found[t] <= plain[t] * 1.1 for t in plain)
    assert sum(found.values()) < sum(plain.values())


def test_awq_of_experts_and_of_any_ceiling(tmp_path: Path) -> None:
    sizes = {**WIDE, "intermediate_size": 128, "num_hidden_layers": 1, "num_local_experts": 4}
    model = opened(write_checkpoint("mixtral", tmp_path / "model", **sizes))
    maxima = maxima_of(model, tmp_path / "maxima")
    digests = set()
    for memory in (1 << 30, 24 * 2 * 5120):
        folder = tmp_path / f"{memory}"
        folder.mkdir()
        make_scales(
            model.config,
            model.tensors,
            model.checkpoint,
            folder,
            scaling=Scaling(AWQ),
            maxima=maxima,
            max_memory=memory,
        )
        digests.add(sha256_file(folder / RESULT))
    assert len(digests) == 1
    found = load_file(tmp_path / f"{1 << 30}" / RESULT)
    assert found["layers.0.moe.down.group_scale"].shape == (4, 256, 1)
    # One s for all experts, folded into the norm; the router follows.
    columns = found["layers.0.moe.gate.columns"]
    assert (columns == columns[0]).all()
    assert "layers.0.moe.router.weight" in found
    assert "layers.0.mlp.norm.weight" in found


def test_a_search_stays_below_the_ceiling(tmp_path: Path) -> None:
    sizes = {**WIDE, "intermediate_size": 8192, "num_hidden_layers": 1}
    model = opened(write_checkpoint("llama", tmp_path / "model", **sizes))
    maxima, ceiling = maxima_of(model, tmp_path / "maxima"), 8 << 20
    tracemalloc.start()
    try:
        make_scales(
            model.config, model.tensors, model.checkpoint, tmp_path,
            scaling=Scaling(AWQ), maxima=maxima, max_memory=ceiling,
        )  # fmt: skip
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < ceiling + 2 * (tmp_path / RESULT).stat().st_size
