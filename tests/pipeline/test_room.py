"""Plans of published models on instance types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import recipes
from compiler import targets
from compiler.errors import RefusedError, UsageError
from compiler.lmi.capacity import CONTEXT, GIB
from compiler.pipeline.plan import Plan, make_plan
from compiler.pipeline.request import Ask
from compiler.pipeline.room import demand_of, room_note
from tests import published
from tests.command import command


def _plan(model: str, tp: int, max_batch: int = 8, max_positions: int | None = None) -> Plan:
    hf, ask = published.CONFIGS[model], Ask(tp=tp, max_batch=max_batch, max_positions=max_positions)
    return make_plan(*recipes.for_config(hf), targets.load("trtllm"), hf, published.headers(model), ask)


def test_the_demand_is_that_of_the_rank_files_and_the_cache() -> None:
    found = demand_of(_plan("llama2-13b", 4, max_batch=2, max_positions=2048))
    assert found.ranks == 4
    embedding = 32000 * 5120 * 2  # whole on every rank
    assert found.weights == pytest.approx((13_015_864_320 * 2 - embedding) / 4 + embedding, rel=1e-4)
    assert found.cache == 819_200 / 4
    assert found.cache_bytes == 819_200 // 4 * 2 * 2048
    assert CONTEXT < found.workspace < CONTEXT + GIB


def test_mixtral_at_tp_4_is_two_copies_on_eight_a100() -> None:
    plan = _plan("mixtral-8x7b", 4, max_batch=8, max_positions=4096)
    assert room_note(plan, "p4d.24xlarge").startswith("2 copies of 4 devices on ml.p4d.24xlarge, 24.")


def test_more_ranks_than_devices_are_refused_with_what_fits() -> None:
    with pytest.raises(RefusedError, match=r"split over 8 devices; ml\.g5\.xlarge has 1") as caught:
        room_note(_plan("llama2-7b", 8), "ml.g5.xlarge")
    assert "ml.g5.48xlarge" in caught.value.hint
    assert "recommend --instance-type ml.g5.xlarge" in caught.value.hint


def test_a_plan_without_memory_on_the_type_is_refused_with_the_sum() -> None:
    with pytest.raises(RefusedError, match=r"24\.2 GiB of weights .* a device; NVIDIA A10G .* has 22\.4 GiB"):
        room_note(_plan("llama2-13b", 1, max_batch=1), "ml.g5.xlarge")


@pytest.mark.parametrize(("name", "has"), [("ml.trn1.32xlarge", "AWS Trainium"), ("ml.m5.24xlarge", "processors")])
def test_devices_of_another_maker_are_refused(name: str, has: str) -> None:
    with pytest.raises(RefusedError, match=f"target `trtllm` has no code for {has}"):
        room_note(_plan("llama2-7b", 1), name)


def test_a_type_that_is_unknown_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no instance type called `ml\.c99\.huge`"):
        room_note(_plan("llama2-7b", 1), "ml.c99.huge")


def test_plan_and_build_refuse_tp_8_on_one_gpu(tmp_path: Path) -> None:
    model = published.write_headers("llama2-7b", tmp_path / "model")
    for name in ("plan", "build"):
        asked = [name, "--model", model, "--tp", "8", "--instance-type", "ml.g5.xlarge", "--json"]
        ran = command(*asked, cache=tmp_path / "cache")
        assert ran.code == 4
        assert "split over 8 devices; ml.g5.xlarge has 1" in ran.error["message"]
    ran = command(
        "plan", "--model", model, "--tp", "4", "--max-positions", "512", "--instance-type", "ml.g5.12xlarge", "--json",
        cache=tmp_path / "cache",
    )  # fmt: skip
    assert "1 copy of 4 devices on ml.g5.12xlarge" in json.dumps(ran.json["notes"])
