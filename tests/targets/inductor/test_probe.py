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


def _specs(kind: LayerKind, dtype: str, products: str = "float", cache: str = "") -> Sequence[SegmentSpec]:
    config = replace(model_config("llama"), layer_kinds=(kind, LayerKind("gated"), kind))
    return specs(config, 2, dtype, LIMITS, products, cache)


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


@pytest.mark.parametrize("cache", ["int8", "fp8"])
def test_limits_of_quantized_caches_are_seen_too(cache: str) -> None:
    assert len(attention_problems(_specs(KINDS["window 4096"], "bfloat16", "weight_only", cache), _other(1))) == 3


def test_attention_without_a_limit_is_left_out() -> None:
    def run(spec: SegmentSpec, _: list[Tensor]) -> Tensor:
        raise AssertionError(spec.name)

    assert attention_problems(_specs(LayerKind("gated"), "float32"), run) == []
