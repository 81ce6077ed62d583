"""Builds with a quantized KV cache: planned, stored, told, and judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from compiler.artifact.quantization import quant_of
from compiler.errors import NumericsError
from compiler.numerics.verify import check_layout
from compiler.pipeline.build import build
from compiler.quantization.request import Quant
from compiler.runtime.section import Segments, check_artifact
from tests.pipeline.test_quantized import SHORT, SMOOTH, Requests, assert_repeats_its_scheme, scaled
from tests.stand_in import StandIn


@pytest.mark.parametrize(("case", "kv", "tp"), [("llama", "int8", 2), ("gpt2", "fp8", 1), ("mixtral/window", "fp8", 2)])
def test_a_quantized_cache_is_planned_stored_and_told(
    case: str, kv: Literal["int8", "fp8"], tp: int, quantized: Requests, tmp_path: Path
) -> None:
    asked = Quant(SMOOTH, cache=kv, text=SHORT)
    result = build(quantized(asked, case, tp=tp), toolchain=StandIn())
    made = check_artifact(result.output, by="sha256")
    check_layout(made, tmp_path / "artifact")
    assert isinstance(made.section, Segments)
    assert (made.section.products, made.section.cache) == ("per_token", kv)
    assert made.quantisation is not None
    assert made.quantisation.kv_cache == kv
    assert_repeats_its_scheme(made)
    config, heads = result.plan.config, result.plan.heads
    assert result.plan.kv_bytes_per_token == 2 * config.layers * heads.kv_heads * config.head_dim
    assert quant_of(made.quantisation).decides == replace(asked, text=quant_of(made.quantisation).text).decides
    for rank in made.section.weights:
        tensors = load_file(tmp_path / "artifact" / rank)
        for layer in range(config.layers):
            for which in "kv":
                scale = tensors[f"layers.{layer}.attn.{which}.cache_scale"]
                assert (scale.dtype, scale.shape) == (torch.float32, (heads.kv_heads,))
                assert (scale > 0).all()


def test_a_cache_alone_can_be_quantized(quantized: Requests) -> None:
    found = check_artifact(
        build(quantized(Quant(cache="int8", text=SHORT, accept=True)), toolchain=StandIn()).output, by="sha256"
    )
    assert isinstance(found.section, Segments)
    assert (found.section.products, found.section.cache) == ("float", "int8")
    assert found.quantisation is not None
    assert (found.quantisation.scheme, found.quantisation.kv_cache) == ("", "int8")
    assert 0 < found.quantisation.gate.kl < 0.1


@pytest.mark.parametrize(("which", "times"), [("k", 0.25), ("v", 0.25), ("k", 2), ("v", 2), ("v", 16)])
def test_a_broken_scale_of_the_cache_fails_the_build_and_names_the_layer(
    which: str, times: float, quantized: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too small cuts off what is large. One too large is still undone by itself: it costs bits, twice as large one,
    in two of the four heads.
    """
    scaled(monkeypatch, f"layers.1.attn.{which}.cache_scale", times, "weights/rank1.safetensors")
    asked = Quant(cache="int8", text=SHORT, max_perplexity_increase=10.0)
    with pytest.raises(NumericsError, match=r"`layers\.1\.attn`: .* times the scheme's own error away") as caught:
        build(quantized(asked), toolchain=StandIn())
    assert "layers.0.attn" not in caught.value.message
