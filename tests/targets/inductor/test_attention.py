"""Attention over a cache, with every instruction set that this CPU has, against sums written out in float64."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compiler.decoder.attention import Cache, Scores, alibi_slopes, cache_dtype, dequantize, quantize
from compiler.machine import features
from compiler.quantization.schemes import CACHES
from compiler.targets.inductor.attention import attend
from compiler.targets.inductor.toolchain import on_x86

INSTRUCTIONS = {"portable": 0}
if on_x86() and {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= features():
    INSTRUCTIONS["avx512"] = 1
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
CACHED = [cache_dtype(form) for form in CACHES]
STORED = {**DTYPES, torch.int8: 3, torch.float8_e4m3fn: 4}
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 1 / 256, torch.float16: 1 / 2048}
BLOCK = 128
"""`kBlock` of native/attend.h: positions beyond it are of another block."""


@dataclass(frozen=True)
class Case:
    """Queries q [B, S, heads, D] at positions [B, S] over a cache that is longer and has more rows."""

    q: Tensor
    cache: Cache
    positions: Tensor
    window: int
    slopes: Tensor | None
    scale: float
    softcap: float = 0.0

    def expected(self) -> Tensor:
        """float64, row by row and head by head, and of the cache nothing but what a query sees."""
        k, v = (
            dequantize(stored, scale, torch.float64).double()
            for stored, scale in ((self.cache.k, self.cache.k_scale), (self.cache.v, self.cache.v_scale))
        )
        out = torch.empty(self.q.shape, dtype=torch.float64)
        batch, length, heads, _ = self.q.shape
        for row in range(batch):
            for token in range(length):
                place = int(self.positions[row, token])
                seen = slice(max(place - self.window + 1, 0) if self.window else 0, place + 1)
                for head in range(heads):
                    kv_head = head * k.shape[2] // heads
                    scores = k[row, seen, kv_head] @ self.q[row, token, head].double() * self.scale
                    if self.softcap:
                        scores = (scores / self.softcap).tanh() * self.softcap
                    if self.slopes is not None:
                        distance = torch.arange(seen.start, seen.stop) - place
                        scores = scores + self.slopes[head].double() * distance
                    out[row, token, head] = scores.softmax(-1) @ v[row, seen, kv_head]
        return out


Run = Callable[[str, Case], Tensor]


@pytest.fixture(scope="module")
def run(driven: Callable[[str], ctypes.CDLL]) -> Run:
    function = driven("attend_driver.cpp").run_attention

    def attention(instructions: str, case: Case) -> Tensor:
        def at(tensor: Tensor | None) -> ctypes.c_void_p:
            return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())

        cache, q, count = case.cache, case.q, ctypes.c_int64
        y = torch.full(q.shape, float("nan"), dtype=q.dtype)
        _, length, kv_heads, dim = cache.k.shape
        function(
            INSTRUCTIONS[instructions], STORED[cache.k.dtype], at(cache.k), at(cache.v), at(cache.k_scale),
            at(cache.v_scale), count(length), count(kv_heads), count(dim), DTYPES[q.dtype], at(q), at(case.positions),
            at(case.slopes), count(case.window), *map(ctypes.c_float, (case.scale, case.softcap)),
            count(q.shape[0]), count(q.shape[1]), count(q.shape[2]), at(y),
        )  # fmt: skip
        return y

    return attention


def made(
    stored: torch.dtype, dtype: torch.dtype, *, rows: int = 2, tokens: int = 1, kv_heads: int = 2, group: int = 3,
    dim: int = 20, length: int = 300, window: int = 0, sloped: bool = False, seed: int = 0,
    scale: float = 1.0, softcap: float = 0.0,
) -> Case:  # fmt: skip
    """A random one; keys of the first head are much larger than the others."""
    g = torch.Generator().manual_seed(seed)
    q = torch.randn((rows, tokens, kv_heads * group, dim), generator=g).to(dtype)
    k, v = (torch.randn((rows + 1, length, kv_heads, dim), generator=g) for _ in range(2))
    k[:, :, 0] *= 4
    scales: list[Tensor | None] = [None, None]
    if stored in CACHED:
        top = 127 if stored == torch.int8 else 448
        scales = [part.abs().amax((0, 1, 3)) / top for part in (k, v)]
    stores = [
        quantize(part, s, stored) if s is not None else part.to(stored) for part, s in zip((k, v), scales, strict=True)
    ]
    positions = torch.randint(0, length, (rows, tokens), generator=g)
    slopes = torch.tensor(alibi_slopes(kv_heads * group)) if sloped else None
    return Case(
        q, Cache(stores[0], stores[1], scales[0], scales[1]), positions, window, slopes, scale / dim**0.5, softcap
    )


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Within the rounding of the result, and of sums in float32."""
    slack = expected.abs() * ROUNDING[dtype] + 4e-6 * expected.abs().amax(-1, keepdim=True).clamp_min(1)
    assert ((found.double() - expected).abs() <= slack).all()


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(STORED, key=str)), st.sampled_from(sorted(DTYPES, key=str)), st.integers(1, 3),
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 70), st.integers(1, 400),
    st.sampled_from([0, 0, 1, 5, BLOCK, 200]), st.booleans(), st.integers(0, 999), st.sampled_from([1.0, 0.3]),
    st.sampled_from([0.0, 2.0, 50.0]),
)  # fmt: skip
def test_it_is_what_is_written_out(
    instructions: str, run: Run, stored: torch.dtype, dtype: torch.dtype, rows: int, tokens: int, kv_heads: int,
    group: int, dim: int, length: int, window: int, sloped: bool, seed: int,
    scale: float, softcap: float,
) -> None:  # fmt: skip
    case = made(
        stored, dtype, rows=rows, tokens=tokens, kv_heads=kv_heads, group=group, dim=dim, length=length, window=window,
        sloped=sloped, seed=seed, scale=scale, softcap=softcap,
    )  # fmt: skip
    assert_close(run(instructions, case), case.expected(), dtype)


@pytest.mark.parametrize(("stored", "dtype"), [(s, d) for d in DTYPES for s in STORED if s in (d, *CACHED)], ids=str)
@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_the_operator_is_defined_as_the_same(run: Run, stored: torch.dtype, dtype: torch.dtype, softcap: float) -> None:
    """What plain torch makes of it rounds more: the probabilities, and what it reads, to the dtype of the model."""
    case = made(stored, dtype, window=150, sloped=True, scale=0.7, softcap=softcap)
    scores = Scores(150, scale=case.scale, softcap=softcap, slopes=case.slopes)
    defined = attend(case.q, case.cache, case.positions, torch.arange(300), scores)
    expected = case.expected()
    assert_close(run("portable", case), expected, dtype)
    assert (defined.double() - expected).norm() <= 4 * ROUNDING[dtype] * expected.norm()


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_the_last_position_and_the_first(instructions: str, run: Run) -> None:
    for place in (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK - 1, 299):
        case = replace(made(torch.int8, torch.bfloat16), positions=torch.tensor([[place], [0]]))
        assert_close(run(instructions, case), case.expected(), torch.bfloat16)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.int8, torch.float8_e4m3fn])
def test_a_row_has_its_result_whatever_stands_beside_it(instructions: str, run: Run, stored: torch.dtype) -> None:
    """And however many threads there are: bit for bit."""
    case = made(stored, torch.bfloat16, rows=4, group=8, dim=64, length=600)
    together = run(instructions, case)
    for row in range(4):
        one = Cache(case.cache.k[row:], case.cache.v[row:], case.cache.k_scale, case.cache.v_scale)
        alone = replace(case, q=case.q[row : row + 1], cache=one, positions=case.positions[row : row + 1])
        assert torch.equal(run(instructions, alone), together[row : row + 1])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(run(instructions, case), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_nothing_is_read_that_a_row_does_not_see(instructions: str, run: Run) -> None:
    """Neither what is behind its position nor what its window has left: there is poison."""
    case = made(torch.float32, torch.float32, window=40)
    case = replace(case, positions=torch.tensor([[30], [250]]))
    expected = run(instructions, case)
    assert expected.isfinite().all()
    for part in (case.cache.k, case.cache.v):
        part[0, 31:], part[1, 251:], part[1, :211], part[2:] = (float("nan"),) * 4
    assert torch.equal(run(instructions, case), expected)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_nan_in_cache_or_query_gives_nan(instructions: str, run: Run, stored: torch.dtype) -> None:
    case = replace(made(stored, torch.float32), positions=torch.tensor([[200], [200]]))
    bad = case.cache.v[1, 150, 0].float()
    bad[3] = float("nan")
    case.cache.v[1, 150, 0] = bad.to(stored)
    found = run(instructions, case)
    assert found[0].isfinite().all()
    assert found[1, 0, :3, 3].isnan().all()
    broken = replace(case, q=case.q.clone())
    broken.q[0, 0, 4, 0] = float("nan")
    assert run(instructions, broken)[0, 0, 4].isnan().all()


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_every_number_of_float8_is_read_as_itself(instructions: str, run: Run) -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    numbers = bits.view(torch.float8_e4m3fn)
    k = torch.zeros((1, 2, 1, 256), dtype=torch.float8_e4m3fn)
    cache = Cache(k, numbers.expand(1, 2, 1, 256).contiguous(), torch.ones(1), torch.ones(1))
    case = Case(torch.ones((1, 1, 1, 256)), cache, torch.zeros((1, 1), dtype=torch.int64), 0, None, 1.0)
    assert torch.equal(run(instructions, case).flatten().nan_to_num(7), numbers.float().nan_to_num(7))
