"""The memory arithmetic against figures that are published or worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.lmi.capacity import CONTEXT, GIB, Demand, place, smallest, workspace_bytes
from compiler.lmi.instances import instance
from compiler.model.config import ModelConfig

LLAMA2_13B = ModelConfig(
    "LlamaForCausalLM", layers=40, hidden=5120, heads=40, kv_heads=40, head_dim=128, ffn=13824, vocab=32000,
    norm_eps=1e-5, max_positions=4096, dtype="float16",
)  # fmt: skip
DEMAND = Demand(ranks=1, weights=26 * 10**9, cache=819_200, workspace=GIB, batch=1, length=4096)
"""Llama-2-13B by LMI's page on instance types: 26 GB of weights, 819,200 bytes of cache a token."""


def test_the_cache_is_that_of_the_published_example() -> None:
    assert DEMAND.cache_bytes == pytest.approx(3.36e9, rel=1e-2)


def test_a_model_that_one_device_cannot_hold_is_refused_with_the_sum() -> None:
    found = place(DEMAND, instance("ml.g5.xlarge"))
    assert found.copies == 0
    (problem,) = found.problems
    assert problem == (
        "24.2 GiB of weights + 3.1 GiB of KV cache (1 rows of 4096 tokens) + 1.0 GiB of workspace = 28.3 GiB a device; "
        "NVIDIA A10G of ml.g5.xlarge has 22.4 GiB, 90% of it usable: 20.1 GiB"
    )


@pytest.mark.parametrize(
    ("ranks", "name", "copies"),
    [(4, "ml.p4d.24xlarge", 2), (8, "ml.p4d.24xlarge", 1), (2, "ml.g5.12xlarge", 2), (3, "ml.p4d.24xlarge", 2)],
)
def test_copies_are_devices_over_ranks(ranks: int, name: str, copies: int) -> None:
    assert place(replace(DEMAND, ranks=ranks, weights=6 * GIB), instance(name)).copies == copies


def test_more_ranks_than_devices_is_refused_whatever_the_memory() -> None:
    found = place(replace(DEMAND, ranks=8, weights=1), instance("ml.g5.xlarge"))
    assert found.problems == ("it is split over 8 devices; ml.g5.xlarge has 1",)


def test_the_last_row_that_fits_is_counted() -> None:
    found = place(DEMAND, instance("ml.p4d.24xlarge"))
    assert found.most_rows > 1
    assert place(replace(DEMAND, batch=found.most_rows), found.instance).copies
    assert not place(replace(DEMAND, batch=found.most_rows + 1), found.instance).copies


def test_on_processors_all_ranks_share_one_memory() -> None:
    small = replace(DEMAND, ranks=2, weights=10 * GIB, cache=0)
    assert place(small, instance("ml.m5.4xlarge")).copies == 2  # 57.6 GiB usable, 22 a copy
    tiny = replace(small, weights=1, workspace=1)
    assert place(tiny, instance("ml.m5.xlarge")).copies == 2, "four vCPUs, two for each"
    assert "2 x (10.0 GiB" in place(small, instance("ml.m5.xlarge")).problems[0]
    assert place(small, instance("ml.g5.4xlarge"), on_processors=True).copies == 2, "GPUs are left alone"


def test_the_smallest_instance_of_each_family_comes_first() -> None:
    names = [fit.instance.name for fit in smallest(replace(DEMAND, ranks=1))]
    assert names[:3] == ["ml.g7.2xlarge", "ml.g6e.xlarge", "ml.p5.4xlarge"]
    assert all(place(DEMAND, instance(name)).copies for name in names)
    assert smallest(replace(DEMAND, ranks=9)) == []


def test_the_workspace_grows_with_batch_and_shrinks_with_ranks() -> None:
    one = workspace_bytes(LLAMA2_13B, 1, 2, batch=1, length=512, chunk=512)
    logits = 2 * 4 * 32000
    assert one == CONTEXT + 2 * 512 * (2 * 5120 + 3 * 5120 + 2 * 13824) * 2 + logits
    assert workspace_bytes(LLAMA2_13B, 4, 2, 1, 512, 512) < one < workspace_bytes(LLAMA2_13B, 1, 2, 2, 512, 512)
