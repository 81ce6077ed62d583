"""Graphs for NeuronCores against the models: every family with every strategy, and random geometries of heads.

    python -m tests.neuron_conformance [--families [CASE ...]] [--random 200] [--seed 0]

Families: tiny checkpoints at tp 4 and 8, logits of the emitted files against transformers and the torch decoder, in
parts of the largest logit; bfloat16 and int8 with the strategy that is chosen where none is named. Random: heads, kv
heads, head_dim, tp, batch sizes and strategy are drawn; each geometry is equal to the unsharded model or refused by
the plan.
Exits with 1 where a float32 difference is above 1e-5. Takes minutes: the default suite has a few cases of each.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import RefusedError
from compiler.targets.neuron.buckets import Buckets
from compiler.targets.neuron.heads import STRATEGIES
from compiler.targets.neuron.plan import neuron_plan
from compiler.targets.neuron.verify import TOLERANCE, compared, execute, job_of, write_graphs
from compiler.targets.neuron.verify_model import decoder_logits, small_model
from tests.targets.neuron.graphs import Case, differences, plan_of
from tests.tiny import model_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from compiler.targets.neuron.plan import NeuronPlan
    from compiler.targets.neuron.verify_job import VerifyJob
    from compiler.targets.neuron.verify_model import SmallModel

FAMILIES = (
    "llama", "llama/rope-llama3", "llama/rope-linear", "llama/tied", "llama/biases", "mistral", "mixtral",
    "mixtral/window", "qwen2", "qwen2/window", "gpt2", "gptj", "starcoder", "starcoder/all-kv-heads",
)  # fmt: skip
CHUNK = 25
"""Cases that one process runs."""
SHORT = Buckets(context=(12,), token=(24,))


def named(tp: int, case: str) -> Iterator[tuple[str, NeuronPlan | str]]:
    """Each strategy with its plan, or with the reason of the plan's refusal."""
    choices: list[tuple[str, dict[str, Any]]] = [(name, {"strategy": name}) for name in STRATEGIES]
    for name, settings in [*choices, ("over sequence", {"over_sequence": True})]:
        batch = tp if name == "shard-over-batch" else 2
        try:
            yield name, plan_of(case, tp, **settings, batches=(batch,))
        except RefusedError as error:
            yield name, str(error)


def families(cases: Sequence[str]) -> bool:
    """Print a line for each family, tp and strategy. Whether all float32 differences are small."""
    wanted: list[tuple[str, Case]] = []
    refused = 0
    for case in cases:
        for tp in (4, 8):
            for name, plan in named(tp, case):
                if isinstance(plan, str):
                    refused += 1
                else:
                    wanted.append((f"{case:24} tp {tp} {name:18} float32 ", Case(case, plan)))
        for dtype, weights in (("bfloat16", ""), ("float32", "int8")):
            plan = plan_of(case, 4, batches=(2,), dtype=dtype, weights=weights)
            wanted.append((f"{case:24} tp 4 {plan.heads.strategy:18} {weights or dtype:8}", Case(case, plan)))
    worst = 0.0
    for first in range(0, len(wanted), CHUNK):
        chunk = wanted[first : first + CHUNK]
        with tempfile.TemporaryDirectory() as folder:
            found = differences([case for _, case in chunk], Path(folder))
        for (label, _), one in zip(chunk, found, strict=True):
            print(f"{label} transformers {one.transformers:.1e}   decoder {one.decoder:.1e}", flush=True)
            if "float32" in label:
                worst = max(worst, one.transformers, one.decoder)
    print(f"{len(wanted)} run, {refused} refused by the plan; largest float32 difference {worst:.2e}")
    return worst <= TOLERANCE


def drawn(generator: random.Random) -> tuple[str, NeuronPlan | str]:
    """A random geometry with its plan, or with the reason of its refusal."""
    kv_heads = generator.choice((1, 1, 2, 2, 3, 4, 4, 5, 8, 12))
    heads = kv_heads * generator.choice((1, 1, 2, 3, 4, 5, 7, 8, 16))
    tp = generator.choice((1, 2, 3, 4, 4, 5, 6, 8, 8))
    head_dim = generator.choice((4, 8, 12, 16))
    batches = tuple({generator.choice((1, 2, 3, 4, 5, 8)) for _ in range(generator.choice((1, 1, 2)))})
    strategy = generator.choice((None, *STRATEGIES))
    over_sequence = generator.random() < 0.15
    case = generator.choice(("llama", "llama", "mistral", "mixtral", "qwen2", "gpt2", "gptj"))
    config = replace(
        model_config(case), heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        rotary_dim=min(model_config(case).rotary_dim, head_dim),
    )  # fmt: skip
    if case == "llama":
        config = replace(config, rotary_dim=head_dim)
    text = f"{case} {heads}/{kv_heads} x {head_dim}, tp {tp}, batch {sorted(batches)}, {strategy or 'any'}"
    text += ", over sequence" if over_sequence else ""
    try:
        return text, neuron_plan(
            config, tp, 64, batches, "float32", strategy=strategy, over_sequence=over_sequence,
            continuous_batching=generator.random() < 0.2,
        )  # fmt: skip
    except RefusedError as error:
        return text, f"{error} ({error.hint})"


def geometries(count: int, seed: int) -> bool:
    """Draw `count` geometries, run those that the plan takes. Whether all differences are small."""
    generator = random.Random(seed)
    cases = [drawn(generator) for _ in range(count)]
    wrong = [text for text, plan in cases if isinstance(plan, str) and not plan.strip()]
    taken = [(text, plan) for text, plan in cases if not isinstance(plan, str)]
    worst, strategies = 0.0, Counter(plan.heads.strategy for _, plan in taken)
    for first in range(0, len(taken), CHUNK):
        with tempfile.TemporaryDirectory() as name:
            jobs: dict[Path, VerifyJob] = {}
            models: list[SmallModel] = []
            for number, (_, plan) in enumerate(taken[first : first + CHUNK]):
                folder = Path(name) / str(number)
                model, shards = small_model(plan, folder, first + number, SHORT)
                write_graphs(model.plan, folder)
                jobs[folder] = job_of(model.plan, folder, shards, model.rows, model.prompts)
                models.append(model)
            outcomes = execute(jobs)
        for (text, _), model, outcome in zip(taken[first : first + CHUNK], models, outcomes, strict=True):
            expected = decoder_logits(model.plan.config, model.tensors, model.rows)
            difference, _ = compared(expected, outcome.runs)
            worst = max(worst, difference)
            if not difference <= TOLERANCE:
                wrong.append(text)
                print(f"{text}: {difference:.2g}")
        print(f"{min(first + CHUNK, len(taken))} of {len(taken)} run, largest difference {worst:.2e}", flush=True)
    print(f"{count} drawn, {len(taken)} run, {len(wrong)} differ, {count - len(taken)} refused; {dict(strategies)}")
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--families", nargs="*", metavar="CASE", help="tiny cases; without a name all of FAMILIES")
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    good = [
        *([families(arguments.families or FAMILIES)] if arguments.families is not None else []),
        *([geometries(arguments.random, arguments.seed)] if arguments.random else []),
    ]
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
