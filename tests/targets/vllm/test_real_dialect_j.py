"""Bake and proof with a real vLLM on a CPU, in dialect J; test_real_artifact.py has the CPU platform as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.targets.vllm.explain import explain_start
from compiler.targets.vllm.factors import keyed_by
from compiler.targets.vllm.proof import judge
from tests.targets.vllm.bakes import TriedBake
from tests.targets.vllm.real_bakes import MARKS, deciding, real_bake

pytestmark = MARKS


@pytest.fixture(scope="module")
def just_in_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriedBake]:
    with real_bake(tmp_path_factory.mktemp("jit"), "J") as found:
        yield found


def test_dialect_j_hits_and_has_the_key_of_vllm(just_in_time: TriedBake) -> None:
    assert just_in_time.verdict.hit
    assert just_in_time.verdict.counters["num_compiled_artifacts_loaded"] > 0
    assert just_in_time.verdict.counters.get("num_compiled_artifacts_saved", 0) == 0
    assert keyed_by(just_in_time.report) == "vllm"


def test_kernels_outside_of_the_root_are_compiled_again_and_the_folder_is_named(
    just_in_time: TriedBake, tmp_path: Path
) -> None:
    start = just_in_time.start("outside", {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)})
    assert not judge(start, just_in_time.session, "J", 1).hit
    found = explain_start(just_in_time.report, just_in_time.work / "outside" / "record")
    assert "paths: TORCHINDUCTOR_CACHE_DIR" in deciding(found)
