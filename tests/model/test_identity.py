from __future__ import annotations

import json
from dataclasses import dataclass, field, make_dataclass

import pytest

from compiler.model.identity import changed_fields, identity
from compiler.model.ops import Concat, Each, Rearrange, Shard


@dataclass(frozen=True)
class Sized:
    size: int
    scale: float = 1.0
    parts: tuple[Shard, ...] = field(default_factory=tuple)


def test_values_are_json_with_sorted_keys_and_types() -> None:
    program = (Each(((Rearrange("a b -> b a", (("a", 2),)),),)), Concat(0, (1, 2)))
    text = identity({"program": program, "none": None, "yes": True, "eps": 1e-05})
    assert json.loads(text)["program"][1] == {"axis": 0, "sizes": [1, 2], "type": "Concat"}
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text


def test_defaults_are_left_out() -> None:
    assert identity(Sized(3)) == '{"size":3,"type":"Sized"}'
    assert json.loads(identity(Sized(3, 2.0, (Shard(0, 2),)))) == {
        "type": "Sized",
        "size": 3,
        "scale": 2.0,
        "parts": [{"type": "Shard", "axis": 0, "parts": 2}],
    }
    assert changed_fields(Sized(3, 2.0)) == {"size": 3, "scale": 2.0}


def test_a_new_field_with_a_default_changes_nothing_until_it_is_used() -> None:
    grown = make_dataclass("Sized", [("bias", bool, field(default=False))], bases=(Sized,), frozen=True)
    assert identity((grown(3),)) == identity((Sized(3),))
    assert identity(grown(3, bias=True)) != identity(Sized(3))


def test_values_that_look_alike_have_different_identities() -> None:
    alike = [1, 1.0, "1", True, b"1", (1,), ("1",), None, "null", Shard(1, 1), {"axis": 1, "parts": 1}, Concat(1, (1,))]
    assert len({identity(value) for value in alike}) == len(alike)


def test_bytes_count_by_their_digest() -> None:
    assert identity(b"") == '{"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}'


@pytest.mark.parametrize("value", [{1, 2}, object(), {1: "a"}, {"path": len}])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        identity(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_without_json_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no canonical JSON"):
        identity(value)
