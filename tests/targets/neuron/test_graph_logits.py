"""Graphs against the model: written, read back from disk and executed on one virtual device for each rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.targets.neuron.graphs import Case, Difference, differences, plan_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CASES: dict[str, Callable[[], Case]] = {
    "llama, replicated heads": lambda: Case("llama", plan_of("llama", 4, "replicated-heads", batches=(2,))),
    "llama, scaled rope, gathered heads": lambda: Case(
        "llama/rope-llama3", plan_of("llama/rope-llama3", 4, "all-gather-heads", batches=(1, 4))
    ),
    "llama, batch": lambda: Case("llama/biases", plan_of("llama/biases", 4, "shard-over-batch", batches=(4,))),
    "llama, sequence": lambda: Case("llama", plan_of("llama", 4, over_sequence=True, batches=(4,))),
    "mistral, window, continuous": lambda: Case(
        "mistral", plan_of("mistral", 4, "shard-over-heads", batches=(4,), continuous_batching=True)
    ),
    "mixtral": lambda: Case("mixtral", plan_of("mixtral", 4, batches=(4,))),
    "qwen2, tp 8": lambda: Case("qwen2/window", plan_of("qwen2/window", 8, batches=(4,))),
    "gpt2": lambda: Case("gpt2", plan_of("gpt2", 4, batches=(4,), context_buckets=(0,))),
    "gptj": lambda: Case("gptj", plan_of("gptj", 4, batches=(4,))),
    "starcoder": lambda: Case("starcoder", plan_of("starcoder", 4, batches=(4,))),
}
INT8 = "llama, int8"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Difference]:
    """All cases in one process: starting jax and torch takes longer than a case."""
    cases = [make() for make in CASES.values()]
    cases.append(Case("llama", plan_of("llama", 4, batches=(4,), weights="int8")))
    folder: Path = tmp_path_factory.mktemp("graphs")
    return dict(zip([*CASES, INT8], differences(cases, folder), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_logits_of_emitted_files_are_those_of_the_model(found: dict[str, Difference], case: str) -> None:
    difference = found[case]
    assert difference.transformers < 1e-5
    assert difference.decoder < 1e-5


def test_int8_graphs_compute_the_rounded_weights(found: dict[str, Difference]) -> None:
    difference = found[INT8]
    assert difference.decoder < 1e-5
    assert 1e-4 < difference.transformers < 0.1  # rounding, and no more


def test_every_graph_of_a_plan_runs(found: dict[str, Difference]) -> None:
    assert found["llama, scaled rope, gathered heads"].graphs == (
        "context_20_batch_1", "context_20_batch_4", "token_32_batch_1", "token_32_batch_4",
    )  # fmt: skip
