from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import RefusedError, UsageError
from compiler.lmi.properties import Properties, Value
from compiler.lmi.quantize import ALPHA, LmiQuantization, quant_properties, quantization_of
from tests.lmi.artifacts import FLAT, TRITON


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"option.quantize": "smoothquant"}, LmiQuantization("W8A8_SQ_PER_TENSOR_PLUGIN", alpha=ALPHA)),
        (
            {
                "option.quantize": "smoothquant",
                "option.smoothquant_alpha": 0.5,
                "option.smoothquant_per_token": True,
                "option.smoothquant_per_channel": True,
                "option.multi_query_mode": True,
            },
            LmiQuantization("W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", alpha=0.5, multi_query=True),
        ),
        (
            {"option.quantize": "smoothquant", "option.smoothquant_per_channel": True},
            LmiQuantization("W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN", alpha=ALPHA),
        ),
        (
            {"option.quantize": "awq", "option.calib_size": 32},
            LmiQuantization("W4A16_AWQ", group_size=128, calibration_size=32),
        ),
        ({"option.quantize": "fp8"}, LmiQuantization("FP8")),
        ({"option.dtype": "fp16"}, LmiQuantization()),
    ],
)
def test_the_spelling_of_lmi(entries: dict[str, Value], expected: LmiQuantization) -> None:
    assert quantization_of(Properties(TRITON, entries)) == expected


def test_the_spelling_of_0_33() -> None:
    entries: dict[str, Value] = {"option.quant_algo": "w4a16_awq", "option.group_size": 64}
    assert quantization_of(Properties(FLAT, entries)) == LmiQuantization("W4A16_AWQ", group_size=64)


@given(
    st.sampled_from([TRITON, FLAT, (0, 28)]),
    st.one_of(
        st.builds(
            LmiQuantization,
            st.sampled_from(["W8A8_SQ_PER_TENSOR_PLUGIN", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"]),
            alpha=st.floats(0, 1),
        ),
        st.builds(
            LmiQuantization,
            st.sampled_from(["W4A16_AWQ", "W4A8_AWQ"]),
            group_size=st.sampled_from([64, 128]),
            calibration_size=st.integers(1, 512),
        ),
        st.just(LmiQuantization()),
    ),
)
def test_a_recorded_quantization_is_read_back(release: tuple[int, int], asked: LmiQuantization) -> None:
    assert quantization_of(Properties(release, quant_properties(release, asked))) == asked


def test_companions_without_their_scheme() -> None:
    with pytest.raises(UsageError, match=r"`option\.smoothquant_alpha`: for SmoothQuant"):
        quantization_of(Properties(TRITON, {"option.smoothquant_alpha": 0.5}))
    with pytest.raises(UsageError, match=r"from 0 to 1; found 1\.5"):
        quantization_of(Properties(TRITON, {"option.quantize": "smoothquant", "option.smoothquant_alpha": 1.5}))


def test_a_scheme_without_a_word_in_the_release() -> None:
    with pytest.raises(RefusedError, match="no properties for W8A16"):
        quant_properties(TRITON, LmiQuantization("W8A16"))
    with pytest.raises(RefusedError, match="no properties for W4A16_AWQ"):
        quant_properties((0, 25), LmiQuantization("W4A16_AWQ"))
