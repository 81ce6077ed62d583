"""What this CPU can run, from /proc/cpuinfo. Needs no torch.

The levels are those of the x86-64 psABI (System V ABI, AMD64 supplement, "Micro-Architecture Levels"). Linux
spells some of its features differently; the table is in Linux's spelling.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

LEVELS: dict[str, frozenset[str]] = {
    "x86-64": frozenset({"cmov", "cx8", "fpu", "fxsr", "mmx", "sse", "sse2"}),
    "x86-64-v2": frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}),
    "x86-64-v3": frozenset({"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}),
    "x86-64-v4": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
}
"""What each level adds to the one before it."""


@cache
def features() -> frozenset[str]:
    """The feature flags of this CPU, in Linux's spelling; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def isa() -> str:
    """The highest level that this CPU reaches ("x86-64-v3"); elsewhere the machine's name ("aarch64")."""
    machine = platform.machine()
    return level_of(features()) if machine in ("x86_64", "AMD64") else machine


def level_of(flags: frozenset[str]) -> str:
    """The highest level whose features, and those of the levels below it, are all in `flags`."""
    reached = "x86-64"
    for level, needed in LEVELS.items():
        if not needed <= flags:
            break
        reached = level
    return reached


_INSTRUCTION_SETS = (
    "adx aes amx avx bmi clflushopt clwb f16c fma gfni movbe movdir pclmul popcnt rdseed sha_ni sse ssse vaes vpclmul"
)
"""How the flags of /proc/cpuinfo begin that are instruction sets; the others are features of the system."""


def beyond(level: str, flags: frozenset[str]) -> tuple[str, ...]:
    """The instruction sets among `flags` beyond `level`, sorted: what `-march=native` may use."""
    promised = _all_of(level)
    return tuple(sorted(f for f in flags - promised if f.startswith(tuple(_INSTRUCTION_SETS.split()))))


def missing_for(wanted: str, flags: frozenset[str] | None = None) -> tuple[str, ...] | None:
    """Features that code for `wanted` needs and this CPU lacks, sorted; None where `wanted` is no known
    level.

    `flags` stands in for this CPU's in tests.
    """
    if wanted == platform.machine():
        return ()
    if wanted not in LEVELS:
        return None
    return tuple(sorted(_all_of(wanted) - (features() if flags is None else flags)))


def _all_of(level: str) -> frozenset[str]:
    levels = list(LEVELS)
    return frozenset[str]().union(*(LEVELS[name] for name in levels[: levels.index(level) + 1]))
