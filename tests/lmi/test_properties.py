from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import RefusedError, UsageError
from compiler.lmi.images import Release
from compiler.lmi.options import BY_NAME, OPTIONS, Option
from compiler.lmi.properties import Properties, known, parse
from tests.lmi.artifacts import FLAT, RELEASES, TRITON


def _values(option: Option) -> st.SearchStrategy[Any]:
    if option.choices:
        return st.sampled_from(option.choices)
    text = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\"))
    return {
        "int": st.integers(),
        "float": st.floats(allow_nan=False),
        "bool": st.booleans(),
        "text": text,
    }[option.kind]


@st.composite
def _properties(draw: st.DrawFn) -> Properties:
    release = draw(st.sampled_from(RELEASES))
    chosen = draw(st.lists(st.sampled_from(known(release)), unique_by=lambda option: option.name, max_size=8))
    return Properties(release, {option.name: draw(_values(option)) for option in chosen})


@given(_properties())
def test_written_properties_are_read_back(properties: Properties) -> None:
    data = properties.to_bytes()
    assert parse(data, properties.release) == properties
    assert list(parse(data, properties.release).entries) == list(properties.entries)


def test_names_are_unique_and_rows_make_sense() -> None:
    assert len(BY_NAME) == len(OPTIONS)
    for option in OPTIONS:
        assert option.until is None or option.since < option.until
        assert option.until is None or option.instead, option.name
        assert not option.choices or option.kind == "text"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("option.tensor_paralel_degree", "option.tensor_parallel_degree"),
        ("option.max_rolling_batchsize", "option.max_rolling_batch_size"),
        ("option.smooth_quant_alpha", "option.smoothquant_alpha"),
        ("tensor_parallel_degree", "option.tensor_parallel_degree"),
    ],
)
def test_a_misspelt_name_gets_its_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match="silently ignored") as caught:
        Properties(TRITON, {name: 1})
    assert nearest in caught.value.hint


@pytest.mark.parametrize(
    ("release", "name", "value", "hint"),
    [
        (FLAT, "option.quantize", "smoothquant", "quant_algo"),
        (FLAT, "option.smoothquant_alpha", 0.5, "smoothquant_val"),
        (FLAT, "option.max_output_len", 512, "max_seq_len"),
        ((0, 27), "option.awq_format", "int4_awq", "q_format"),
        ((0, 26), "option.max_num_tokens", 4096, "Leave it out"),
        ((0, 28), "option.pipeline_parallel_degree", 1, "Leave it out"),
    ],
)
def test_names_of_other_releases_are_refused(release: Release, name: str, value: Any, hint: str) -> None:
    with pytest.raises(RefusedError) as caught:
        Properties(release, {name: value})
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("option.tensor_parallel_degree", "8"),
        ("option.tensor_parallel_degree", True),
        ("option.mpi_mode", "true"),
        ("option.dtype", 16),
        ("engine", "Pytho"),
        ("option.batch_scheduler_policy", "max_utilisation"),
    ],
)
def test_values_of_another_type_or_set(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"`{name}` takes"):
        Properties(TRITON, {name: value})


def test_max_is_no_number() -> None:
    with pytest.raises(UsageError, match="found `max`") as caught:
        parse(b"option.tensor_parallel_degree=max\n", TRITON)
    assert "write the number" in caught.value.hint


def test_booleans_are_spelled_as_java_parses_them() -> None:
    written = Properties(TRITON, {"option.mpi_mode": True, "option.kv_cache_free_gpu_mem_fraction": 1})
    assert written.to_bytes() == b"option.mpi_mode=true\noption.kv_cache_free_gpu_mem_fraction=1\n"
    assert parse(b"option.mpi_mode = TRUE\n", TRITON).entries == {"option.mpi_mode": True}
