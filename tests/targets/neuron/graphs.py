"""Graphs of tiny models for tests: plans of the tiny cases, shards of random checkpoints, jobs that run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.targets.neuron.plan import NeuronPlan, neuron_plan
from compiler.targets.neuron.verify import compared, execute, job_of, write_graphs
from compiler.targets.neuron.verify_model import decoder_logits, write_shards
from tests.tiny import model_config, write_checkpoint
from tests.weights import canonical_weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from compiler.targets.neuron.heads import Strategy
    from compiler.targets.neuron.verify_job import VerifyJob

LENGTH = 32
ROWS, PROMPTS = (25, 14, 20, 9), (17, 8, 11, 3)
"""Tokens of each row, of which so many are the prompt: longer than the windows and rotary boundaries of tiny cases."""


def plan_of(case: str, tp: int, strategy: Strategy | None = None, **settings: Any) -> NeuronPlan:
    """Plan of a tiny case in float32: one bucket of prompts, one of decode steps."""
    buckets = {"token_buckets": (LENGTH,), "context_buckets": (20,)}
    return neuron_plan(
        model_config(case), tp, LENGTH, **{"dtype": "float32", "strategy": strategy, **buckets, **settings}
    )


def rows_of(vocab: int, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    generator = np.random.default_rng(seed)
    return tuple(tuple(generator.integers(0, vocab, length).tolist()) for length in ROWS)


@dataclass(frozen=True)
class Case:
    """A tiny case, and the plan of its graphs."""

    name: str
    plan: NeuronPlan
    seed: int = 0


@dataclass(frozen=True)
class Difference:
    """Largest difference of the graphs' logits from each reference, in parts of the largest logit; graphs that ran."""

    transformers: float
    decoder: float
    graphs: tuple[str, ...]


def differences(cases: Sequence[Case], folder: Path) -> list[Difference]:
    """Graphs and shards of random checkpoints, written, read back and run in one process; logits against references."""
    jobs: dict[Path, VerifyJob] = {}
    references = []
    for number, case in enumerate(cases):
        own = folder / str(number)
        checkpoint = write_checkpoint(case.name, own / "model", seed=case.seed, dtype="float32")
        tensors = canonical_weights(checkpoint)
        shards, rounded = write_shards(case.plan, tensors, own)
        write_graphs(case.plan, own)
        rows = rows_of(case.plan.config.vocab, case.seed)
        jobs[own] = job_of(case.plan, own, shards, rows, PROMPTS)
        references.append(
            (_by_transformers(checkpoint, case.plan, rows), decoder_logits(case.plan.config, tensors | rounded, rows))
        )
    return [
        Difference(compared(foreign, found.runs)[0], compared(own, found.runs)[0], found.graphs)
        for (foreign, own), found in zip(references, execute(jobs), strict=True)
    ]


def _by_transformers(
    checkpoint: Path, plan: NeuronPlan, rows: tuple[tuple[int, ...], ...]
) -> list[NDArray[np.float32]]:
    from compiler.numerics.foreign import transformers_config, transformers_logits, transformers_model
    from compiler.storage.checkpoints.checkpoint import open_checkpoint

    opened = open_checkpoint(checkpoint)
    model = transformers_model(transformers_config(opened.config), opened)
    return [transformers_logits(model, np.array(row, np.int64))[:, : plan.config.vocab] for row in rows]
