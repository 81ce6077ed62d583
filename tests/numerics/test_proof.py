"""Rows of a proof, from a model's limits and those of the build."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.model.config import LayerKind, ModelConfig
from compiler.model.rope import RopeScaling
from compiler.numerics.proof import LONGEST, Proof, compared, proof_of
from compiler.targets.runners import DECODED
from tests.tiny import model_config

PLAIN = model_config("llama")


def _with(window: int | None = None, chunk: int | None = None, boundary: int | None = None, **more: Any) -> ModelConfig:
    scaling = RopeScaling("llama3", 8.0, original_max_positions=boundary) if boundary else None
    kinds = (LayerKind("gated"), LayerKind("gated", window, chunk), LayerKind("gated"))
    return replace(PLAIN, layer_kinds=kinds, rope_scaling=scaling, **more)


@pytest.mark.parametrize(
    ("config", "positions", "rows"),
    [
        (PLAIN, 256, (160, 40)),
        (PLAIN, 128, (127, 31)),
        (PLAIN, 20, (19, 4)),
        (PLAIN, 2, (1,)),
        (_with(window=200), 4096, (216, 40)),
        (_with(boundary=250), 4096, (266, 40)),
        (_with(window=4096), 32768, (160, 40)),
    ],
)
def test_rows_reach_behind_windows_boundaries_and_blocks(
    config: ModelConfig, positions: int, rows: tuple[int, ...]
) -> None:
    assert proof_of(config, positions).rows == rows


def test_long_limits_are_lowered_and_short_ones_stay() -> None:
    found = proof_of(replace(_with(window=4096, boundary=8192)), 131072)
    assert found.lowered is not None
    assert [kind.window for kind in found.lowered.layer_kinds] == [None, 16, None]
    assert found.lowered.rope_scaling is not None
    assert found.lowered.rope_scaling.original_max_positions == 16
    assert found.lowered_rows == (64,)
    assert found.to_json() == {
        "rows": [160, 40],
        "window": 4096,
        "boundary": 8192,
        "lowered_rows": [64],
        "lowered_window": 16,
        "lowered_boundary": 16,
    }
    assert found.text == ("160 + 40 tokens, and 64 tokens with the window of 4096 at 16 and the boundary of 8192 at 16")
    assert proof_of(_with(window=8), 256) == Proof((160, 40), window=8)


def test_chunks_are_windows() -> None:
    found = proof_of(_with(chunk=8192), 131072)
    assert found.lowered is not None
    assert (found.window, found.lowered.layer_kinds[1].chunk) == (8192, 16)


def test_a_window_that_no_row_reaches_is_not_proven() -> None:
    assert proof_of(_with(window=4096), 4096) == proof_of(PLAIN, 4096)


def test_a_linear_scaling_has_no_boundary() -> None:
    config = replace(PLAIN, rope_scaling=RopeScaling("linear", 2.0))
    assert proof_of(config, 512) == proof_of(PLAIN, 512)


@given(
    window=st.none() | st.integers(1, 10_000),
    chunk=st.none() | st.integers(1, 10_000),
    boundary=st.none() | st.integers(1, 10_000),
    positions=st.integers(2, 20_000),
)
def test_every_limit_is_passed_by_a_row_that_fits(
    window: int | None, chunk: int | None, boundary: int | None, positions: int
) -> None:
    found = proof_of(_with(window, chunk, boundary), positions)
    assert all(0 < length < positions or positions == 2 for length in (*found.rows, *found.lowered_rows))
    assert max(found.rows) <= LONGEST
    lowered = proof_of(found.lowered, positions) if found.lowered else found
    longest = max(*found.rows, *found.lowered_rows, 0)
    for limit in (lowered.window, lowered.boundary):
        # Rows of two or three tokens prove windows of one or two.
        assert limit is None or limit < longest or limit <= 32 or positions < 64


@given(st.integers(1, 400))
def test_compared_positions_are_in_the_row_and_have_all_decode_steps(length: int) -> None:
    found = compared(length).tolist()
    assert found == sorted(set(found))
    assert 0 <= found[0] <= found[-1] == length - 1
    assert set(range(max(length - DECODED, 0), length)) <= set(found)
