from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from compiler.errors import ParallelError
from compiler.model import lazy
from compiler.model.ops import run
from compiler.model.parallel import check_parallel, head_layout, largest_parallel, padded, spread
from tests.model.configs import config

SMALL = st.integers(1, 12)


@given(SMALL, SMALL, SMALL)
def test_every_query_head_finds_its_kv_head_on_its_own_rank(kv_heads: int, group: int, tp: int) -> None:
    heads = kv_heads * group
    assume(heads % tp == 0 and (kv_heads % tp == 0 or tp % kv_heads == 0))
    layout = head_layout(heads, kv_heads, tp)
    c = config(heads=heads, kv_heads=kv_heads, head_dim=1, vocab=5, ffn=tp)
    q = run(spread(("heads", "head_dim"), c, tp), [lazy.whole("q", (heads, 1), "BF16")])
    k = run(spread(("kv_heads", "head_dim"), c, tp), [lazy.whole("k", (kv_heads, 1), "BF16")])
    seen: set[int] = set()
    for q_rank, k_rank in zip(q, k, strict=True):
        q_heads = lazy.read(q_rank, lambda _: np.arange(heads, dtype="u2")).ravel()
        k_heads = lazy.read(k_rank, lambda _: np.arange(kv_heads, dtype="u2")).ravel()
        assert (len(q_heads), len(k_heads)) == (layout.heads, layout.kv_heads)
        local_group = layout.heads // layout.kv_heads
        for i, head in enumerate(q_heads):
            assert k_heads[i // local_group] == head // group
        seen |= set(k_heads.tolist())
    assert seen == set(range(kv_heads))


@given(SMALL, SMALL, SMALL)
def test_a_refusal_names_exactly_the_values_that_work(kv_heads: int, group: int, tp: int) -> None:
    heads = kv_heads * group
    try:
        head_layout(heads, kv_heads, tp)
    except ParallelError as error:
        named = {int(n) for n in re.findall(r"\d+", error.hint)}
        assert tp not in named
        for n in range(1, heads + 1):
            if n in named:
                head_layout(heads, kv_heads, n)
            else:
                with pytest.raises(ParallelError):
                    head_layout(heads, kv_heads, n)


def test_the_table_in_the_docstring() -> None:
    c = config(heads=8, kv_heads=2, head_dim=1)
    shards = run(spread(("kv_heads",), c, 8), [lazy.whole("k", (2,), "BF16")])
    assert [int(lazy.read(s, lambda _: np.arange(2, dtype="u2"))[0]) for s in shards] == [
        0,
        0,
        0,
        0,
        1,
        1,
        1,
        1,
    ]


@given(st.integers(1, 1000), st.integers(1, 16))
def test_padding_is_the_least_that_divides(size: int, parts: int) -> None:
    assert padded(size, parts) % parts == 0
    assert 0 <= padded(size, parts) - size < parts


def test_widths_that_do_not_divide_are_named() -> None:
    with pytest.raises(ParallelError, match="mlp width 100") as caught:
        check_parallel(config(heads=8, kv_heads=8, ffn=100), 8)
    assert caught.value.hint == "`--tp` is one of 1, 2, 4 for this model."


@pytest.mark.parametrize("tp", [0, -1])
def test_less_than_one_rank_is_refused(tp: int) -> None:
    with pytest.raises(ParallelError):
        check_parallel(config(), tp)


def test_tp_max_is_the_largest_that_fits_the_devices() -> None:
    qwen2_7b = config(heads=28, kv_heads=4, ffn=18944)
    assert [largest_parallel(qwen2_7b, n) for n in (1, 3, 4, 8)] == [1, 2, 4, 4]
