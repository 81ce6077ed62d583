from __future__ import annotations

import platform

import pytest

from compiler.machine import LEVELS, beyond, features, isa, level_of, missing_for

ALL = frozenset[str]().union(*LEVELS.values())


def test_a_level_needs_all_below_it() -> None:
    assert level_of(ALL) == "x86-64-v4"
    assert level_of(ALL - LEVELS["x86-64-v4"]) == "x86-64-v3"
    assert level_of(ALL - {"ssse3"}) == "x86-64"
    assert level_of(frozenset()) == "x86-64"


@pytest.mark.parametrize("level", LEVELS)
def test_losing_any_feature_of_a_level_loses_the_level(level: str) -> None:
    for feature in LEVELS[level]:
        assert missing_for(level, ALL - {feature}) == (feature,)
    assert missing_for(level, ALL) == ()


def test_an_unknown_level_is_none() -> None:
    assert missing_for("x86-64-v9", ALL) is None
    assert missing_for(platform.machine(), frozenset()) == ()


def test_beyond_names_instruction_sets_only() -> None:
    flags = ALL | {"amx_tile", "avx512_vnni", "md_clear", "ibrs", "hypervisor"}
    assert beyond("x86-64-v4", flags) == ("amx_tile", "avx512_vnni")
    assert "avx512f" in beyond("x86-64-v3", flags)


def test_this_cpu_runs_the_level_it_is_said_to_have() -> None:
    assert missing_for(isa()) == ()
    if isa() in LEVELS:
        assert level_of(features()) == isa()
