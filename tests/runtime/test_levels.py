"""Level of the CPU kernels: by features, and by the environment."""

from __future__ import annotations

import pytest

from compiler.errors import UsageError
from compiler.runtime.levels import VARIABLE, level, needed, supported

ZEN3 = frozenset(["avx", "avx2", "fma", "f16c", "sse4_2"])
SKYLAKE = ZEN3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
ICE_LAKE = SKYLAKE | frozenset(["avx512_vnni", "avx512vbmi"])
SAPPHIRE_RAPIDS = ICE_LAKE | frozenset(["avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "amx_tile"])


@pytest.mark.parametrize(
    ("flags", "highest"),
    [
        (frozenset({"sse4_2"}), "portable"),
        (ZEN3, "avx2"),
        (ZEN3 - {"f16c"}, "portable"),
        (ZEN3 | {"avx_vnni"}, "avx_vnni"),
        (SKYLAKE, "avx512"),
        (ICE_LAKE, "avx512_vnni"),
        (ICE_LAKE | {"avx512_bf16"}, "avx512_bf16"),
        (SAPPHIRE_RAPIDS, "amx"),
    ],
)
def test_a_cpu_has_the_highest_level_whose_features_it_has(flags: frozenset[str], highest: str) -> None:
    assert supported(flags, "x86_64")[-1] == highest
    assert needed(highest) <= flags


def test_levels_of_another_architecture_are_its_own() -> None:
    graviton = frozenset({"asimd", "asimddp", "fphp"})
    assert supported(graviton, "aarch64") == ("portable", "neon", "dotprod")
    assert supported(graviton - {"asimddp"}, "aarch64") == ("portable", "neon")
    for machine in ("aarch64", "riscv64"):
        assert supported(SAPPHIRE_RAPIDS, machine) == ("portable",)
    assert supported(graviton, "x86_64") == ("portable",)


def test_the_environment_selects_a_lower_level() -> None:
    for name in supported():
        assert level({VARIABLE: name}) == name
    assert level({VARIABLE: ""}) == level({}) == supported()[-1]


def test_a_level_that_the_cpu_lacks_is_refused_with_those_that_it_runs() -> None:
    for asked in ("amx", "sse9"):
        with pytest.raises(UsageError, match=rf"portable.*found `{asked}`"):
            level({VARIABLE: asked}, frozenset({"sse4_2"}))
