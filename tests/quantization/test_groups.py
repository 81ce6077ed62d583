"""Smoothing alone changes no logit: for every tiny case, through the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compiler.decoder.forward import forward
from compiler.model.config import LayerKind, ModelConfig
from compiler.model.roles import layer_roles, linear_axes
from compiler.quantization.groups import (
    Factors,
    Maxima,
    Smooth,
    apply,
    explicit,
    folded,
    groups,
    layer_factors,
    layer_scales,
    quantized_roles,
)
from tests.tiny import TINY, model_config
from tests.weights import canonical_weights, joined

Values = np.ndarray


def _maxima(config: ModelConfig, kind: LayerKind, weights: Mapping[str, Values], seed: int) -> dict[str, Maxima]:
    """Maxima of the weights' columns; of the inputs, random ones of very different size."""
    rng = np.random.default_rng(seed)
    found = {}
    for role in quantized_roles(config, kind):
        lead, out, _ = (len(axes) for axes in linear_axes(role))
        columns = np.abs(weights[role]).max(tuple(range(lead, lead + out)))
        found[role] = Maxima(np.exp(2 * rng.standard_normal(columns.shape)).astype(np.float32), columns)
    return found


@pytest.mark.parametrize("way", [tuple, folded, explicit])
@pytest.mark.parametrize("case", TINY)
def test_smoothing_changes_no_logit(
    case: str, way: Callable[[Sequence[Smooth]], Sequence[Smooth]], tiny_checkpoint: Callable[[str], Path]
) -> None:
    folder = tiny_checkpoint(case)
    config = model_config(case)
    tensors = canonical_weights(folder)
    smoothed = dict(tensors)
    for layer, kind in enumerate(config.layer_kinds):
        own = {t.role: v for t, v in tensors.items() if t.layer == layer and t.part == "weight"}
        found = way(groups(config, kind))
        scales = layer_scales(config, found, _maxima(config, kind, own, layer), 0.5)
        factors, divided = layer_factors(config, found, scales)
        for tensor, values in tensors.items():
            if tensor.layer == layer and tensor.role in factors:
                smoothed[tensor] = apply(config, tensor.role, tensor.part, values, factors[tensor.role])
                assert not np.array_equal(smoothed[tensor], values) or tensor.part == "bias"
        for role, s in divided.items():
            # Nothing in front takes this division: here the weight does, in place of the kernel.
            weight = next(t for t in smoothed if (t.layer, t.role, t.part) == (layer, role, "weight"))
            smoothed[weight] = apply(config, role, "weight", smoothed[weight], Factors(columns=np.float32(1) / s))
    token_ids = torch.randint(0, config.vocab, (2, 23), generator=torch.Generator().manual_seed(1))
    expected = forward(config, joined(config, tensors), token_ids)
    logits = forward(config, joined(config, smoothed), token_ids)
    assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("case", TINY)
def test_every_quantized_layer_is_in_one_group(case: str) -> None:
    config = model_config(case)
    for kind in set(config.layer_kinds):
        into = [role for group in groups(config, kind) for role in group.into]
        assert sorted(into) == sorted(quantized_roles(config, kind))
        divided = [group.divides for group in groups(config, kind) if group.divides]
        assert len(set(divided)) == len(divided)
        assert set(divided) <= {role for role, _ in layer_roles(config, kind)}


def test_the_groups_of_a_few_kinds() -> None:
    qkv = ("attn.q", "attn.k", "attn.v")
    assert groups(model_config("llama"), LayerKind("gated")) == (
        Smooth(qkv, "attn.norm"),
        Smooth(("mlp.gate", "mlp.up"), "mlp.norm"),
        Smooth(("attn.o",), "attn.v"),
        Smooth(("mlp.down",), "mlp.up"),
    )
    parallel = groups(model_config("gptj"), LayerKind("plain"))
    assert parallel[0] == Smooth((*qkv, "mlp.up"), "attn.norm")
    assert parallel[-1] == Smooth(("mlp.down",), "")
    relu = replace(model_config("gpt2"), activation="relu")
    assert groups(relu, LayerKind("plain"))[-1] == Smooth(("mlp.down",), "mlp.up")
    experts = groups(model_config("qwen2_moe"), LayerKind("moe"))
    assert experts[1] == Smooth(
        ("moe.gate", "moe.up", "shared.gate", "shared.up"), "mlp.norm", ("moe.router", "shared.router")
    )


def test_one_scale_serves_all_experts_from_the_largest_of_them() -> None:
    config = model_config("mixtral")
    kind = config.layer_kinds[0]
    rng = np.random.default_rng(0)
    maxima = {}
    for role in quantized_roles(config, kind):
        lead, _, inner = linear_axes(role)
        sizes = {"experts": 8, "hidden": 64, "heads": 8, "head_dim": 16, "moe_ffn": 72}
        shape = [sizes[axis] for axis in (*lead, *inner)]
        maxima[role] = Maxima(*(rng.uniform(1, 2, shape).astype(np.float32) for _ in range(2)))
    maxima["moe.up"].columns[5, 3] = 400
    scales = layer_scales(config, groups(config, kind), maxima, 0.5)
    x = max(maxima["moe.gate"].inputs[:, 3].max(), maxima["moe.up"].inputs[:, 3].max())
    np.testing.assert_allclose(scales["moe.gate"][3], (x / 400) ** 0.5, rtol=1e-6)
    assert scales["moe.gate"].shape == (64,)
    assert scales["moe.down"].shape == (8, 72)


def test_query_heads_of_one_kv_head_have_one_scale() -> None:
    config = model_config("llama")
    maxima = {
        role: Maxima(np.ones(shape, np.float32), np.ones(shape, np.float32))
        for role, shape in {
            **dict.fromkeys(("attn.q", "attn.k", "attn.v", "mlp.gate", "mlp.up"), (96,)),
            "attn.o": (8, 16),
            "mlp.down": (144,),
        }.items()
    }
    maxima["attn.o"].inputs[6, 2] = 100
    kind = config.layer_kinds[0]
    scales = layer_scales(config, groups(config, kind), maxima, 0.5)
    assert scales["attn.o"].shape == (2, 16)
    assert scales["attn.o"][1, 2] == 10
    factors, _ = layer_factors(config, groups(config, kind), scales)
    assert factors["attn.o"].columns is not None
    assert factors["attn.o"].columns[:, 2].tolist() == [1, 1, 1, 1, 10, 10, 10, 10]


def test_a_kernel_that_divides_has_a_scale_for_every_head() -> None:
    config = model_config("llama")
    kept = explicit(groups(config, config.layer_kinds[0]))
    assert [group.divides for group in kept] == ["attn.norm", "mlp.norm", "", ""]
    maxima = {"attn.o": Maxima(np.arange(1, 129, dtype=np.float32).reshape(8, 16), np.ones((8, 16), np.float32))}
    scales = layer_scales(config, kept[2:3], maxima, 0.5)
    np.testing.assert_allclose(scales["attn.o"], maxima["attn.o"].inputs ** 0.5, rtol=1e-6)
    factors, smoothers = layer_factors(config, kept[2:3], scales)
    assert smoothers.keys() == factors.keys() == {"attn.o"}
