"""int8 weights, from a checkpoint to rank files: the integers, what they are worth, and how they are split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from torch import Tensor

from compiler.calibration.activations import RESULT as MAXIMA
from compiler.calibration.scales import RESULT, make_scales, with_scales
from compiler.decoder.forward import forward
from compiler.decoder.kernels import Kernels
from compiler.decoder.quantized import QuantizedLinear, definition, experts, weight_only
from compiler.decoder.rankfile.layout import layouts, rank_plans
from compiler.errors import CheckpointError, MemoryCeilingError
from compiler.model.lazy import Lazy, read, whole
from compiler.model.roles import TensorId, linear_axes
from compiler.pipeline.rank_files import convert
from compiler.quantization.groups import Maxima, apply, folded, groups, layer_factors, layer_scales, quantized_roles
from compiler.quantization.scaling import Scaling
from compiler.quantization.schemes import SCHEMES, Scheme
from compiler.storage.files.digest import sha256_file
from tests.calibration.test_activations import Opened, opened, poisoned
from tests.tiny import TINY
from tests.weights import canonical_weights, joined

Folders = Callable[[str], Path]
Values = np.ndarray
INT8, SMOOTH = SCHEMES["int8-weight"], SCHEMES["smoothquant"]


def maxima_of(model: Opened, folder: Path) -> dict[str, Values]:
    model.calibrate(folder)
    return load_file(folder / MAXIMA)


def converted(
    model: Opened, scales: Path, out: Path, tp: int, products: str = "weight_only", **options: Any
) -> list[dict[str, Tensor]]:
    """The rank files of a quantized model, written into `out`, and read."""
    tensors, checkpoint = with_scales(model.tensors, model.checkpoint, scales)
    plans = rank_plans(model.config, tp, tensors, "F32", products)
    convert(plans, checkpoint, out, **options)
    return [load_torch(out / plan.file) for plan in plans]


def _canonical(model: Opened, ranks: list[dict[str, Tensor]]) -> dict[TensorId, Values]:
    """The canonical int8 weights of rank files again, by the inverse of the layout."""
    found = {}
    for layout in layouts(model.config, len(ranks)):
        if ranks[0][layout.name].dtype != torch.int8:
            continue
        bits = [rank[layout.name].numpy().view(np.uint8).reshape(-1) for rank in ranks]
        lazies = [whole(f"{r}", tuple(rank[layout.name].shape), "I8") for r, rank in enumerate(ranks)]
        for tensor, lazy in layout.from_ranks(lazies).items():
            found[tensor] = _integers(lazy, bits)
    return found


def _integers(lazy: Lazy, ranks: list[Values]) -> Values:
    return read(lazy, lambda rank: ranks[int(rank)]).view(np.int8)


def _dequantized(ranks: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Rank files in float32, without scales."""
    return [
        {
            name: values.float() * rank[f"{name.removesuffix('weight')}scale"][..., None]
            if values.dtype == torch.int8
            else values
            for name, values in rank.items()
            if not name.endswith(".scale")
        }
        for rank in ranks
    ]


def _smoothed(model: Opened, weights: dict[TensorId, Values], maxima: dict[str, Values]) -> dict[TensorId, Values]:
    """The definition, tensor by tensor."""
    config, found = model.config, dict(weights)
    for layer, kind in enumerate(config.layer_kinds):
        own = {
            role: Maxima(maxima[f"layers.{layer}.{role}.inputs"], maxima[f"layers.{layer}.{role}.columns"])
            for role in quantized_roles(config, kind)
        }
        found_groups = folded(groups(config, kind))
        scales = layer_scales(config, found_groups, own, 0.5)
        factors, _ = layer_factors(config, found_groups, scales)
        for tensor, values in weights.items():
            if tensor.layer == layer and tensor.role in factors:
                found[tensor] = apply(config, tensor.role, tensor.part, values, factors[tensor.role])
    return found


@pytest.mark.parametrize("scheme", [INT8, SMOOTH], ids=["plain", "smooth"])
@pytest.mark.parametrize("case", TINY)
def test_integers_are_the_smoothed_weights(case: str, scheme: Scheme, tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint(case))
    weights = canonical_weights(model.checkpoint.folder)
    maxima = maxima_of(model, tmp_path / "maxima") if scheme is SMOOTH else None
    make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=Scaling(scheme), maxima=maxima)
    ranks = converted(model, tmp_path / RESULT, tmp_path / "out", 1)
    expected = joined(model.config, weights if maxima is None else _smoothed(model, weights, maxima))
    (found,) = _dequantized(ranks)
    assert set(found) == set(expected)
    integers = 0
    for name, values in expected.items():
        if ranks[0][name].dtype == torch.int8:
            scale = ranks[0][f"{name.removesuffix('weight')}scale"]
            assert ((found[name] - values).abs() <= 0.501 * scale[..., None]).all()
            assert (ranks[0][name].abs().amax(-1) == 127).all()
            integers += 1
        else:
            torch.testing.assert_close(found[name], values, rtol=1e-6, atol=1e-7)
    assert integers >= 4 * model.config.layers
    token_ids = torch.randint(0, model.config.vocab, (2, 23), generator=torch.Generator().manual_seed(1))
    logits = forward(model.config, joined(model.config, weights), token_ids)
    cosine = torch.cosine_similarity(forward(model.config, found, token_ids), logits, dim=-1)
    assert cosine.median() > 0.995


@pytest.mark.parametrize("linear", [weight_only, definition("per_token")], ids=["weight_only", "per_token"])
@pytest.mark.parametrize("case", ["llama/biases", "qwen2_moe", "gpt2", "gptj"])
def test_the_decoder_reads_what_was_converted(
    case: str, linear: QuantizedLinear, tiny_checkpoint: Folders, tmp_path: Path
) -> None:
    model = opened(tiny_checkpoint(case))
    make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=Scaling(INT8))
    ranks = converted(model, tmp_path / RESULT, tmp_path / "out", 1)
    token_ids = torch.randint(0, model.config.vocab, (2, 23), generator=torch.Generator().manual_seed(1))
    kernels = Kernels(quantized=linear, quantized_experts=experts(linear))
    found = forward(model.config, ranks[0], token_ids, kernels)
    expected = forward(model.config, _dequantized(ranks)[0], token_ids)
    if linear is weight_only:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    else:
        assert torch.cosine_similarity(found, expected, dim=-1).median() > 0.995


CASES = ("llama", "qwen2_moe", "mixtral", "gpt2", "gptj", "internlm2", "starcoder", "baichuan")


@pytest.mark.parametrize(
    "scheme", [INT8, SMOOTH, replace(SMOOTH, weight_scales="tensor")], ids=["plain", "smooth", "tensor"]
)
@pytest.mark.parametrize("case", CASES)
def test_sharding_and_quantizing_commute(case: str, scheme: Scheme, tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint(case))
    maxima = maxima_of(model, tmp_path / "maxima") if scheme.search else None
    make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=Scaling(scheme), maxima=maxima)
    alone = _canonical(model, converted(model, tmp_path / RESULT, tmp_path / "1", 1))
    for tp in (2, 4, 8):
        ranks = converted(model, tmp_path / RESULT, tmp_path / f"{tp}", tp)
        found = _canonical(model, ranks)
        assert found.keys() == alone.keys()
        for tensor, integers in found.items():
            np.testing.assert_array_equal(integers, alone[tensor], str(tensor))
        # A row-parallel layer has the scales of whole rows on every rank.
        down = next(n for n in ranks[0] if n.endswith("down.scale"))
        assert all(torch.equal(rank[down], ranks[0][down]) for rank in ranks)


def test_one_scale_a_matrix_is_one_scale(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint("llama"))
    scheme = replace(INT8, weight_scales="tensor")
    make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=Scaling(scheme))
    found = load_file(tmp_path / RESULT)
    weights = canonical_weights(model.checkpoint.folder)
    for role in ("attn.q", "attn.k", "mlp.down"):
        expected = np.abs(weights[TensorId(role, "weight", 1)]).max() / 127
        np.testing.assert_allclose(found[f"layers.1.{role}.scale"], expected, rtol=1e-6)


def test_memory_and_threads_change_no_bit(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint("qwen2_moe"))
    maxima = maxima_of(model, tmp_path / "maxima")
    digests = set()
    for memory in (1 << 30, 6000):
        folder = tmp_path / f"{memory}"
        folder.mkdir()
        make_scales(
            model.config,
            model.tensors,
            model.checkpoint,
            folder,
            scaling=Scaling(SMOOTH),
            maxima=maxima,
            max_memory=memory,
        )
        for threads in (1, 2):
            converted(model, folder / RESULT, folder / f"{threads}", 2, max_memory=16 * memory, threads=threads)
            digests.add(tuple(sha256_file(folder / f"{threads}/weights/rank{rank}.safetensors") for rank in range(2)))
    assert len(digests) == 1


def test_a_ceiling_too_low_for_one_row(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint("llama"))
    with pytest.raises(MemoryCeilingError, match="10 buffers of one row take 2,880 bytes") as caught:
        make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=Scaling(INT8), max_memory=2879)
    assert "2880" in caught.value.hint
    make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=Scaling(INT8), max_memory=2880)


def test_weights_that_are_not_finite_are_named(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    model = opened(poisoned(tiny_checkpoint("llama"), tmp_path / "model", name, float("nan")))
    with pytest.raises(CheckpointError, match=f"NaN or infinite values in {name}"):
        make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=Scaling(INT8))
    assert not (tmp_path / RESULT).exists()


def test_axes_of_rows_and_columns() -> None:
    assert TensorId("attn.o", "columns", 0).axes == ("heads", "head_dim")
    assert TensorId("attn.o", "steps", 0).axes == ("hidden",)
    assert TensorId("moe.down", "scale", 0).axes == ("experts", "hidden")
    assert TensorId("moe.down", "columns", 0).axes == ("experts", "moe_ffn")
    assert linear_axes("shared.router") == ((), ("one",), ("hidden",))
