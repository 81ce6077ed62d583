"""A package whose window or chunk is off by one is found, at any length of the limit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from compiler.decoder.segments import SegmentSpec, specs
from compiler.model.config import LayerKind
from compiler.model.limits import Limits
from compiler.targets.inductor.probe import attention_problems
from tests.simulated import run_eagerly
from tests.tiny import model_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from compiler.targets.inductor.probe import Run

LIMITS = Limits(8192, 4)
KINDS = {
    "window 8": LayerKind("gated", window=8),
    "window 4096": LayerKind("gated", window=4096),
    "chunk 4096": LayerKind("gated", chunk=4096),
}


def _specs(
    kind: LayerKind, dtype: str, products: str = "float", cache: str = "", model: str = "llama", tp: int = 2
) -> Sequence[SegmentSpec]:
    """Specs of a model with layers of `kind`: whole layers at tp 1."""
    config = replace(model_config(model), layer_kinds=(kind, replace(kind, window=None, chunk=None), kind))
    return specs(config, tp, dtype, LIMITS, products, cache, whole=tp == 1)


def _other(by: int | None) -> Run:
    """Computes a segment with a limit that is larger by `by`; None: with none."""

    def run(spec: SegmentSpec, inputs: list[Tensor]) -> Tensor:
        assert spec.kind is not None
        window, chunk = (
            limit and (limit + by if by is not None else None) for limit in (spec.kind.window, spec.kind.chunk)
        )
        return run_eagerly(replace(spec, kind=replace(spec.kind, window=window, chunk=chunk)), inputs)

    return run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", [1, -1, None])
def test_every_phase_with_another_limit_is_named(kind: str, dtype: str, by: int | None) -> None:
    found = attention_problems(_specs(KINDS[kind], dtype), _other(by))
    name = kind.replace(" ", "")
    assert [line.split("`")[1] for line in found] == [
        f"attn-{name}.{phase}" for phase in ("decode1", "decode", "prefill")
    ]


@pytest.mark.parametrize(("products", "cache"), [("float", ""), ("weight_only", "int8"), ("per_token", "fp8")])
@pytest.mark.parametrize("kind", KINDS)
def test_right_limits_pass(kind: str, products: str, cache: str) -> None:
    assert attention_problems(_specs(KINDS[kind], "bfloat16", products, cache), _other(0)) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model", ["llama", "mixtral", "olmo2", "gptj"])
def test_limits_of_whole_layers_are_seen_too(model: str, dtype: str) -> None:
    kind = replace(model_config(model).layer_kinds[0], window=4096)
    found = _specs(kind, dtype, model=model, tp=1)
    assert attention_problems(found, _other(0)) == []
    for by in (1, -1, None):
        assert len(attention_problems(found, _other(by))) == 3, by


@pytest.mark.parametrize("cache", ["", "int8"])
@pytest.mark.parametrize(
    "products", ["weight_only", "grouped_16", "per_token", "per_tensor", "fp8_per_token", "fp8_per_tensor"]
)
@pytest.mark.parametrize("model", ["llama", "mixtral"])
def test_limits_of_whole_quantized_layers_are_seen_too(model: str, products: str, cache: str) -> None:
    kind = replace(model_config(model).layer_kinds[0], window=4096)
    found = _specs(kind, "bfloat16", products, cache, model, tp=1)
    assert attention_problems(found, _other(0)) == []
    assert len(attention_problems(found, _other(1))) == 3


@pytest.mark.parametrize("cache", ["int8", "fp8"])
def test_limits_of_quantized_caches_are_seen_too(cache: str) -> None:
    assert len(attention_problems(_specs(KINDS["window 4096"], "bfloat16", "weight_only", cache), _other(1))) == 3


def test_attention_without_a_limit_is_left_out() -> None:
    def run(spec: SegmentSpec, _: list[Tensor]) -> Tensor:
        raise AssertionError(spec.name)

    assert attention_problems(_specs(LayerKind("gated"), "float32"), run) == []
