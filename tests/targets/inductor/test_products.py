"""The library of products, with every instruction set that this CPU has, against the definitions in plain torch."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compiler.decoder.quantized import dequantize_groups, finish
from compiler.quantization.formats import fp8, int4, int8
from compiler.runtime.levels import VARIABLE, supported
from compiler.targets.inductor import library
from tests.targets.inductor import emulated

GROUP = int4.FORMAT.group or 0
EMULATED = os.environ.get(emulated.VARIABLE)
LEVELS = supported(emulated.FEATURES, EMULATED) if EMULATED else supported()
FORMATS = {
    name: i
    for i, name in enumerate(("floats", "int8", "int8_int8", "int4", "fp8", "int8_many", "int4_many", "floats_many"))
}
BFLOAT16_WEIGHTS = {"avx512_bf16", "amx"}
"""Levels that widen quantized weights to bfloat16 for many tokens; others round x to 16-bit integers."""
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ROUNDING = {torch.bfloat16: 1 / 256, torch.float16: 1 / 2048}

INNER = st.integers(1, 200) | st.integers(500, 1300)
"""Columns, with and without a second chunk (`kColumns` of native/tiles.h)."""

Run = Callable[..., Tensor]
"""level, format, x, weight, scale, bias, chosen, input_scale -> y, as the operators of `ops.py`."""


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    if EMULATED:
        emulator = emulated.start(tmp_path_factory.mktemp("emulated"))
        yield partial(_product, emulator.run)
        emulator.close()
    else:
        yield partial(_product, partial(_call, request.getfixturevalue("driven")("driver.cpp").run_product))


def _product(
    run_at: Callable[..., None], level: str, name: str, x: Tensor, weight: Tensor, scale: Tensor | None = None,
    bias: Tensor | None = None, chosen: Tensor | None = None, input_scale: Tensor | None = None,
) -> Tensor:  # fmt: skip
    shape = (x.shape[0], weight.shape[-2]) if chosen is None else (*chosen.shape, weight.shape[-2])
    y = torch.full(shape, float("nan"), dtype=x.dtype)
    run_at(level, FORMATS[name], DTYPES[x.dtype], x, weight, scale, bias, chosen, input_scale, y)
    return y


def _call(
    function: Any, level: str, form: int, dtype: int, x: Tensor, weight: Tensor, scale: Tensor | None,
    bias: Tensor | None, chosen: Tensor | None, input_scale: Tensor | None, y: Tensor,
) -> None:  # fmt: skip
    """Fill `y` by the library of this CPU."""
    experts, choices = (weight.shape[0], chosen.shape[1]) if chosen is not None else (1, 1)

    def at(tensor: Tensor | None) -> ctypes.c_void_p:
        return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())

    count = ctypes.c_int64
    function(
        level.encode(), form, at(weight), at(scale), at(input_scale), count(experts), count(weight.shape[-2]),
        count(x.shape[1]), dtype, at(x), at(bias), count(x.shape[0]), at(chosen), count(choices), at(y),
    )  # fmt: skip


def case(name: str, tokens: int, out: int, inner: int, seed: int, experts: int = 0) -> tuple[Tensor, ...]:
    """x float32, weight, scale, bias float32; with experts in front of weight and scale where there are some."""
    g = torch.Generator().manual_seed(seed)
    lead = (experts,) if experts else ()
    x, bias = torch.randn((tokens, inner), generator=g), torch.randn(out, generator=g)
    x[:, seed % inner] *= 30  # an outlier
    match name:
        case "floats" | "floats_many":
            return x, torch.randn((*lead, out, inner), generator=g), torch.empty(0), bias
        case "int4" | "int4_many":
            weight = torch.randint(0, 256, (*lead, out, inner // 2), generator=g, dtype=torch.uint8)
            return x, weight, torch.rand((*lead, out, inner // GROUP), generator=g) / 10, bias
        case "fp8":
            codes = torch.tensor([code for code in range(256) if code & 127 != 127], dtype=torch.uint8)
            weight = codes[torch.randint(0, len(codes), (*lead, out, inner), generator=g)].view(torch.float8_e4m3fn)
            return x, weight, torch.rand((*lead, out), generator=g) / 100, bias
    weight = torch.randint(-127, 128, (*lead, out, inner), generator=g, dtype=torch.int8)
    return x, weight, torch.rand((*lead, out), generator=g) / 100, bias


def narrow(
    name: str, made: tuple[Tensor, ...], dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """x, weight and scale of a case as a model of `dtype` has them."""
    x, weight, scale, _ = made
    return x.to(dtype), weight.to(dtype) if name.startswith("floats") else weight, scale


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 11), st.integers(1, 40), INNER, st.booleans(), st.booleans(), st.integers(0, 99)
)  # fmt: skip
def test_8_bit_products_are_exact(
    level: str, run: Run, tokens: int, out: int, inner: int, biased: bool, fixed: bool, seed: int
) -> None:
    """Bit for bit the definition, in both dtypes: integers are summed exactly, floats in its order."""
    x, weight, scale, bias = case("int8_int8", tokens, out, inner, seed)
    for dtype in DTYPES:
        inputs = x.to(dtype), weight, scale, bias.to(dtype) if biased else None
        input_scale = torch.tensor([0.02]) if fixed else None  # the outlier is beyond it
        integers, worth = int8.tokens(inputs[0], input_scale)
        # Not `_int_mm`, as `per_token` has it: for some small sizes torch 2.13 gives zeros.
        sums = (integers.long() @ weight.long().T).float() * worth
        found = run(level, "int8_int8", *inputs, input_scale=input_scale)
        assert torch.equal(found, finish(sums, scale, inputs[3], dtype))


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 4, 7, 40]), st.integers(1, 40), INNER, st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_float8_products_are_those_of_the_definition(
    level: str, run: Run, tokens: int, out: int, inner: int, biased: bool, fixed: bool, seed: int
) -> None:
    """But for the order of the sum: every product is exact in float32."""
    x, weight, scale, bias = case("fp8", tokens, out, inner, seed)
    for dtype in DTYPES:
        inputs = x.to(dtype), weight, scale, bias.to(dtype) if biased else None
        input_scale = torch.tensor([0.005]) if fixed else None  # the outlier is beyond it
        values, worth = fp8.tokens(inputs[0], input_scale)
        exact = (values.double() @ weight.double().T) * worth * scale + (0 if inputs[3] is None else inputs[3])
        slack = (values.double().abs() @ weight.double().abs().T) * worth * scale * 2e-6
        found = run(level, "fp8", *inputs, input_scale=input_scale)
        assert ((found.double() - exact).abs() <= exact.abs() * ROUNDING.get(dtype, 1e-6) + slack + 1e-6).all()


@pytest.mark.parametrize("level", LEVELS)
def test_every_float8_is_what_it_is_worth(level: str, run: Run) -> None:
    """As a weight and, of all floats near it, as an input; with few tokens and with many."""
    codes = torch.tensor([code for code in range(256) if code & 127 != 127], dtype=torch.uint8)
    values, one = codes.view(torch.float8_e4m3fn), torch.ones(1)
    unit = torch.eye(64)[:1].to(torch.float8_e4m3fn)
    weight = torch.zeros((len(codes), 64), dtype=torch.float8_e4m3fn)
    weight[:, 0] = values
    for tokens in (1, 40):
        x = torch.zeros((tokens, 64))
        x[:, 0] = 1
        found = run(level, "fp8", x, weight, torch.ones(len(codes)), input_scale=one)
        assert torch.equal(found, values.float().expand(tokens, -1))
    near = values.float()[:, None] * torch.linspace(0.9, 1.1, 401)
    x = torch.zeros((near.numel(), 64))
    x[:, 0] = near.flatten()
    found = run(level, "fp8", x, unit, one, input_scale=one)
    assert torch.equal(found[:, 0], near.flatten().clamp(-448, 448).to(torch.float8_e4m3fn).float())


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["floats", "floats_many", "int8", "int4"]),
    st.sampled_from(sorted(ROUNDING, key=str)),
    st.integers(1, 11),
    st.integers(1, 40),
    INNER,
    st.booleans(),
    st.integers(0, 99),
)
def test_others_round_their_result_and_little_else(
    level: str,
    run: Run,
    name: str,
    dtype: torch.dtype,
    tokens: int,
    out: int,
    inner: int,
    biased: bool,
    seed: int,
) -> None:
    """Within the dtype's rounding of the product in float64, and of the largest terms' 16 bits."""
    if name == "int4":
        inner = (1 + inner % 20) * GROUP
    x, weight, scale, bias = case(name, tokens, out, inner, seed)
    (x, weight, _), added = narrow(name, (x, weight, scale, bias), dtype), bias.to(dtype) if biased else None
    _assert_rounded(name, run(level, name, x, weight, scale, added), x, weight, scale, added)


def _assert_rounded(name: str, found: Tensor, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
    wide = dequantize_groups(weight, scale).double() if name == "int4" else weight.double()
    exact = x.double() @ wide.T * (scale.double() if name == "int8" else 1) + (0 if bias is None else bias.double())
    sixteen_bits = x.abs().amax(-1, keepdim=True).double() / 65024 * wide.abs().sum(-1)
    slack = sixteen_bits * (scale if name == "int8" else 1) if name.startswith("int") else 1e-5 * wide.abs().sum(-1)
    assert ((found.double() - exact).abs() <= exact.abs() * ROUNDING[x.dtype] + slack + 1e-6).all()


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["int8_many", "int4_many"]), st.sampled_from([1, 3, 4, 9]), st.integers(1, 40),
    INNER, st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_weights_that_become_bfloat16_are_rounded_once(
    level: str, run: Run, name: str, tokens: int, out: int, inner: int, biased: bool, seed: int
) -> None:
    """int8 is exact; int4 times its scale is what a model in bfloat16 would hold. Other levels compute as for few
    tokens: int8 bit for bit, int4 with the sums of its groups in another order.
    """
    inner = inner if name.startswith("int8") else (1 + inner % 5) * GROUP
    made = case(name, tokens, out, inner, seed)
    (x, weight, scale), bias = narrow(name, made), made[3].bfloat16()
    found = run(level, name, x, weight, scale, bias if biased else None)
    if level not in BFLOAT16_WEIGHTS:
        few = name.removesuffix("_many")
        if few == "int8":
            assert torch.equal(found, run(level, few, x, weight, scale, bias if biased else None))
        _assert_rounded(few, found, x, weight, scale, bias if biased else None)
        return
    if name.startswith("int8"):
        wide, worth = weight.double(), scale.double()
    else:
        wide, worth = dequantize_groups(weight, scale).bfloat16().double(), torch.ones(out, dtype=torch.double)
    exact = x.double() @ wide.T * worth + (bias.double() if biased else 0)
    slack = (x.double().abs() @ wide.abs().T) * worth * 2e-6
    assert ((found.double() - exact).abs() <= exact.abs() / 256 + slack + 1e-6).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_token_has_its_result_whatever_stands_beside_it(level: str, run: Run, name: str) -> None:
    """And however many threads there are: bit for bit."""
    x, weight, scale = narrow(name, case(name, 45, 600, 384, 5))
    together = run(level, name, x, weight, scale)
    for tokens in (1, 2, 3, 7, 33):
        assert torch.equal(run(level, name, x[:tokens], weight, scale), together[:tokens])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(run(level, name, x, weight, scale), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_token_meets_its_experts(level: str, run: Run, name: str) -> None:
    x, weight, scale = narrow(name, case(name, 6, 36, 256, 6, experts=5))
    chosen = torch.tensor([[0, 4], [4, 2], [2, 0], [0, 2], [4, 0], [2, 4]])
    found = run(level, name, x, weight, scale, None, chosen)
    for token in range(6):
        for slot in range(2):
            e = int(chosen[token, slot])
            of_expert = None if name.startswith("floats") else scale[e]
            assert torch.equal(found[token, slot], run(level, name, x[token : token + 1], weight[e], of_expert)[0])


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_with_nan_or_infinity_has_no_finite_output(run: Run, name: str) -> None:
    fixed = (None, torch.tensor([0.01])) if name in ("int8_int8", "fp8") else (None,)
    for bad in (float("nan"), float("inf")):
        x, weight, scale = narrow(name, case(name, 2, 8, 128, 7))
        x[1, 3] = bad
        for input_scale in fixed:
            found = run("portable", name, x, weight, scale, input_scale=input_scale)
            assert found[0].isfinite().all()
            assert not found[1].isfinite().any()


def test_zeros_are_zeros(run: Run) -> None:
    for name in FORMATS:
        x, weight, scale = narrow(name, case(name, 1, 8, 128, 8))
        assert not run("portable", name, torch.zeros_like(x), weight, scale).any()


@pytest.mark.skipif(platform.machine() != "x86_64" or bool(EMULATED), reason="kernels of x86-64")
def test_code_for_newer_cpus_is_shared_with_nobody(native: Path) -> None:
    """Of a function that several files instantiate the linker keeps any: here it could keep one that ends in SIGILL."""
    objects = sorted(native.glob("*_avx*.o"))
    assert len(objects) > 4
    for path in objects:
        listing = subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout
        kinds = {line.split()[-2] for line in listing.splitlines()}
        assert not kinds & set("WVu"), (path.name, listing)


_PRINT_LEVEL = """
import ctypes, sys
print(ctypes.CDLL(sys.argv[1]).number_of_level(None))
"""


@pytest.mark.skipif(bool(EMULATED), reason="a library for this process")
def test_the_environment_selects_the_level_of_a_process(driven: Callable[[str], ctypes.CDLL]) -> None:
    """The highest by default, with the names of `compiler.runtime.levels`; a level that this CPU lacks is refused."""
    library_of_levels = driven("driver.cpp")
    numbers = {name: library_of_levels.number_of_level(name.encode()) for name in LEVELS}
    assert len(set(numbers.values())) == len(LEVELS)
    assert -1 not in numbers.values()
    assert library_of_levels.number_of_level(b"sse9") == -1

    def of_process(environment: dict[str, str]) -> int:
        argv = [sys.executable, "-c", _PRINT_LEVEL, library_of_levels._name]
        run = subprocess.run(argv, check=True, capture_output=True, text=True, env={**os.environ, **environment})
        return int(run.stdout)

    for name, number in numbers.items():
        assert of_process({VARIABLE: name}) == number
    assert of_process({VARIABLE: ""}) == numbers[LEVELS[-1]]
    assert of_process({VARIABLE: "sse9"}) == -1


def test_the_digest_is_of_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = library.digest()
    for path in library.FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    assert library.digest() == before
    (tmp_path / "kernels.h").write_text("// changed\n")
    assert library.digest() != before
