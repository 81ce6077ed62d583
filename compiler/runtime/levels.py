"""Levels of instruction sets that compiled packages have CPU kernels for; each process uses one.

`compiler/targets/inductor/native/levels.cpp` has the same names. Features are spelled as in /proc/cpuinfo.
"""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from compiler.errors import UsageError
from compiler.machine import features

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "LMI_COMPILE_ISA"
"""Environment variable that selects a level, to test or to time it on a CPU that has a higher one."""

PORTABLE = "portable"
_AVX512 = "avx512f avx512bw avx512dq avx512vl"
_ADDED = {
    "x86_64": {
        "avx2": ("avx2 fma f16c", PORTABLE),
        "avx_vnni": ("avx_vnni", "avx2"),
        "avx512": (_AVX512, "avx2"),
        "avx512_vnni": ("avx512_vnni", "avx512"),
        "avx512_bf16": ("avx512_bf16 avx512vbmi", "avx512_vnni"),
        "amx": ("amx_bf16 amx_int8", "avx512_bf16"),
    },
    "aarch64": {
        "neon": ("asimd", PORTABLE),
        "dotprod": ("asimddp", "neon"),
        "i8mm": ("i8mm bf16", "dotprod"),
    },
}
"""Levels of each architecture, from the lowest to the highest: features, and the level that they extend."""


def needed(level: str, machine: str = "x86_64") -> frozenset[str]:
    """All features that a level of an architecture needs."""
    if level == PORTABLE:
        return frozenset()
    added, base = _ADDED[machine][level]
    return frozenset(added.split()) | needed(base, machine)


def supported(flags: frozenset[str] | None = None, machine: str | None = None) -> tuple[str, ...]:
    """Levels that this CPU runs, from the lowest to the highest. `flags` and `machine` replace this CPU's."""
    found, name = features() if flags is None else flags, machine or platform.machine()
    return (PORTABLE, *(level for level in _ADDED.get(name, {}) if needed(level, name) <= found))


def level(environment: Mapping[str, str] = os.environ, flags: frozenset[str] | None = None) -> str:
    """Level of a process: that of VARIABLE, else the highest. Raises UsageError for one that this CPU does not run."""
    runs = supported(flags)
    asked = environment.get(VARIABLE) or runs[-1]
    if asked not in runs:
        raise UsageError(
            f"{VARIABLE} takes a level that this CPU runs ({', '.join(runs)}); found `{asked}`",
            hint=f"unset {VARIABLE}, or use one of these",
        )
    return asked
