from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from compiler.machine import LEVELS, beyond, features, isa, level_of, missing_for

ROOT = Path(__file__).parents[1]
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


PEAKS = """
import json, subprocess, sys
from compiler.machine import MemoryPeak

peak = MemoryPeak()
block = bytes(b"x" * (64 << 20))
print(json.dumps(peak.read()))
del block
peak.restart()
print(json.dumps(peak.read()))
subprocess.run([sys.executable, "-c", "block = b'x' * (200 << 20)"], check=True)
print(json.dumps(peak.read()))
"""


def test_a_peak_is_that_since_the_restart() -> None:
    # In a process of its own: the children of this one may have been larger.
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, cwd=ROOT, check=True)
    high, low, last = map(json.loads, done.stdout.splitlines())
    assert high["peak_memory"] > 64 << 20
    assert low["peak_memory"] < high["peak_memory"] - (32 << 20)
    assert "peak_memory_child" not in low
    assert last["peak_memory_child"] > 200 << 20
