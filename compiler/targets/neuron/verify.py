"""Proof of graphs before anything is compiled: emitted files, executed on this machine, against the model's logits.

    small model     one of the same kind (`verify_model.py`), sharded, lowered, read back and run: part of every build
    the model       graphs and shards of an artifact, where they fit into memory: `execute`

The logits are compared with those of the torch decoder in float32, which other tests compare with `transformers`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import CompileError, NumericsError
from compiler.targets.neuron.graph.signature import graph_specs, inputs
from compiler.targets.neuron.verify_job import EXECUTED, LOGITS, JobGraph, VerifyJob
from compiler.targets.neuron.verify_model import decoder_logits, small_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from compiler.targets.neuron.plan import NeuronPlan

TOLERANCE = 1e-5
"""Largest difference of logits in float32, in parts of the largest logit."""
_TAIL = 20
"""Lines of a log in an error."""
_SECONDS = 600.0
"""Time limit of one job."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Logits float32 [tokens, vocab] of every row by run, and the names of the graphs that ran."""

    runs: Mapping[str, Sequence[NDArray[np.float32]]]
    graphs: tuple[str, ...]


@dataclass(frozen=True)
class Verification:
    """Result of a proof. `model`: sizes of the model that ran; `graphs`: names of those that ran; `difference`: the
    largest of any logit, in parts of the largest logit `scale`; `runs`: each batch size with each bucket of prompts.
    """

    model: Mapping[str, int]
    reference: str
    graphs: tuple[str, ...]
    runs: tuple[str, ...]
    tokens: int
    difference: float
    scale: float

    def to_json(self) -> dict[str, Any]:
        """Facts for the manifest."""
        return asdict(self)

    @property
    def text(self) -> str:
        """One line for a report."""
        sizes = ", ".join(f"{name} {value}" for name, value in self.model.items())
        return (
            f"{len(self.graphs)} graphs of a small model ({sizes}) executed: logits within {self.difference:.1e} of "
            f"their scale of those of the {self.reference}"
        )


def write_graphs(plan: NeuronPlan, folder: Path) -> None:
    """Lower every graph of a plan into `folder`. Raises RefusedError, CompileError."""
    from compiler.targets.neuron.graph.lower import lower

    for spec in graph_specs(plan):
        (folder / spec.file).write_bytes(lower(plan, spec))


def verify_small(plan: NeuronPlan, folder: Path | None = None, seed: int = 0) -> Verification:
    """Prove the graphs of a small model of the kind of `plan`; its files go into `folder`, None: a temporary one.

    Raises NumericsError where logits differ by more than TOLERANCE, CompileError where the graphs cannot run.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="lmi-compile-neuron-") as own:
            return verify_small(plan, Path(own), seed)
    model, shards = small_model(plan, folder, seed)
    write_graphs(model.plan, folder)
    config = model.plan.config
    job = job_of(model.plan, folder, shards, model.rows, model.prompts)
    (outcome,) = execute({folder: job})
    expected = decoder_logits(config, model.tensors, model.rows)
    difference, scale = compared(expected, outcome.runs)
    if not difference <= TOLERANCE:
        raise NumericsError(
            f"graphs of {config.architecture} with `{plan.heads.strategy}` at tp {plan.tp}: logits differ by "
            f"{difference:.2g} of their scale from those of the decoder, expected at most {TOLERANCE:g}",
            hint="do not compile them; report this with the command line of the build",
        )
    sizes = ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab")
    return Verification(
        model={name: getattr(config, name) for name in sizes},
        reference="torch decoder",
        graphs=outcome.graphs,
        runs=tuple(outcome.runs),
        tokens=sum(map(len, model.rows)),
        difference=float(f"{difference:.3g}"),
        scale=float(f"{scale:.3g}"),
    )


def job_of(
    plan: NeuronPlan, folder: Path, shards: Sequence[Path], rows: Sequence[Sequence[int]], prompts: Sequence[int]
) -> VerifyJob:
    """Job that computes rows of token ids with the graphs in `folder`; `prompts`: tokens of each row's prompt."""
    files = tuple(
        JobGraph(
            file=str(folder / spec.file),
            kind=spec.kind,
            bucket=spec.bucket,
            batch=spec.batch,
            inputs=tuple((one.name, one.shape, one.dtype) for one in inputs(plan, spec)),
        )
        for spec in graph_specs(plan)
    )
    return VerifyJob(
        tp=plan.tp,
        vocab=plan.config.vocab,
        graphs=files,
        shards=tuple(map(str, shards)),
        rows=tuple(tuple(row) for row in rows),
        prompts=tuple(prompts),
        slots=plan.continuous_batching,
    )


def compared(
    expected: Sequence[NDArray[np.float32]], runs: Mapping[str, Sequence[NDArray[np.float32]]]
) -> tuple[float, float]:
    """Largest difference of any run from `expected`, in parts of the largest expected logit, and that logit.
    Not finite logits differ infinitely.
    """
    scale = max(float(np.abs(row).max()) for row in expected)
    worst = 0.0
    for found in runs.values():
        for mine, theirs in zip(found, expected, strict=True):
            own = float(np.abs(mine - theirs).max()) if np.isfinite(mine).all() else float("inf")
            worst = max(worst, own)
    return worst / scale, scale


def execute(jobs: Mapping[Path, VerifyJob]) -> list[Outcome]:
    """Run jobs, each in a folder, one after the other in a process of their own.

    Raises CompileError with the end of the process's log.
    """
    paths = []
    for folder, job in jobs.items():
        paths.append(folder / "job.json")
        job.write(paths[-1])
    devices = max(job.tp for job in jobs.values())
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "compiler.targets.neuron.verify_job", *map(str, paths)]
    limit = _SECONDS * len(jobs)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise _failed(f"is still running after {limit:g} s", "") from None
    if done.returncode:
        raise _failed(f"ended with exit code {done.returncode}", done.stderr)
    return [_outcome(folder) for folder in jobs]


def _outcome(folder: Path) -> Outcome:
    runs: dict[str, list[NDArray[np.float32]]] = {}
    with np.load(folder / LOGITS) as arrays:
        for name in arrays.files:
            runs.setdefault(name.rpartition("/")[0], []).append(arrays[name])
    executed = json.loads((folder / EXECUTED).read_text())
    return Outcome(runs, tuple(Path(file).name.partition(".")[0] for file in executed))


def _failed(text: str, log: str) -> CompileError:
    tail = "\n".join(f"  {line}" for line in log.splitlines()[-_TAIL:])
    return CompileError(
        f"the process that executes graphs {text}{':' if tail else ''}\n{tail}".rstrip(),
        hint="report this; `--until convert` makes the shards alone",
    )
