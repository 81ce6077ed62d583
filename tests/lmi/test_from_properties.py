"""Every property that a release knows is used, reported as without effect, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import RefusedError, UsageError
from compiler.lmi.backends import BACKEND_VALUES, ENVIRONMENT, INSTEAD, RENAMED, TABLES
from compiler.lmi.effects import QUANTIZATION
from compiler.lmi.from_properties import LmiRequest, request_of_properties
from compiler.lmi.options import BY_NAME, OPTIONS, Option
from compiler.quantization.request import Text

FIXED = TABLES["trtllm"].fixed
IMAGES = {(0, 28): "0.28.0", (0, 33): "0.33.0"}


def _request(folder: Path, text: str, image: str = "") -> LmiRequest:
    file = folder / "serving.properties"
    file.write_text(text)
    return request_of_properties(file, image, Text())


def _value(option: Option) -> str:
    allowed = FIXED.get(option.name, ())
    if option.name == "option.dtype":
        return "fp16"
    if allowed:
        return str(allowed[0]).lower()
    return (
        option.choices[0] if option.choices else {"int": "1", "float": "1.0", "bool": "false", "text": "x"}[option.kind]
    )


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.name not in QUANTIZATION], ids=lambda option: option.name)
def test_no_property_is_dropped_in_silence(option: Option, tmp_path: Path) -> None:
    image = IMAGES[(0, 33)] if option.since >= (0, 30) else IMAGES[(0, 28)] if option.since <= (0, 28) else "0.29.0"
    text = f"{option.name}={_value(option)}\n"
    if option.name in FIXED and not FIXED[option.name]:
        with pytest.raises(RefusedError, match=r"line 1: .* cannot be honored"):
            _request(tmp_path, text, image)
        return
    if option.until is not None and option.until <= (0, 28):
        return
    found = _request(tmp_path, text, image)
    assert len([*found.lines.values(), *found.ignored]) == 1, found


def test_tables_name_properties_that_exist() -> None:
    for table in TABLES.values():
        known = {*table.by_name}
        assert len(known) == len(table.options), table.name
        tables = {*table.used, *table.fixed, *table.features, *table.no_effect, *table.quantizes}
        assert tables <= known | {"option.tensor_parallel_size", "option.pipeline_parallel_size", "option.rope_scaling"}
        assert all(option.until is None or option.since < option.until for option in table.options)
    assert {*BACKEND_VALUES, *RENAMED.values(), *ENVIRONMENT.values()} <= {*BY_NAME}
    assert {*INSTEAD} <= {name for table in TABLES.values() for name in table.by_name} - {*BY_NAME}
    assert not {*RENAMED} & {*BY_NAME}


def test_lengths_add_up(tmp_path: Path) -> None:
    found = _request(tmp_path, "option.max_input_len=100\noption.max_output_len=28\n")
    assert found.values == {"max_input_len": "100", "max_positions": "128"}
    assert _request(tmp_path, "option.max_seq_len=64\noption.max_input_len=32\n", "0.33.0").values == {
        "max_positions": "64",
        "max_input_len": "32",
    }


def test_rotary_scaling_takes_both_properties(tmp_path: Path) -> None:
    both = "option.rotary_scaling_type=linear\noption.rotary_scaling_factor=2.5\n"
    assert _request(tmp_path, both).values == {"rope_scaling": "linear:2.5"}
    half = _request(tmp_path, "option.rotary_scaling_factor=2.5\n")
    assert (half.values, len(half.ignored)) == ({}, 1)


def test_a_value_that_changes_the_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"line 1: `option.max_beam_width` cannot be honored with the value `4`"):
        _request(tmp_path, "option.max_beam_width=4\n", "0.33.0")


def test_all_problems_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        _request(tmp_path, "option.max_input_len=many\n\noption.tokens=3\noption.dtype=fp16\n")
    first, *lines = caught.value.message.splitlines()
    assert first == f"2 properties of {tmp_path / 'serving.properties'} cannot be used:"
    assert [line.split(":")[0] for line in lines] == ["  line 1", "  line 3"]
