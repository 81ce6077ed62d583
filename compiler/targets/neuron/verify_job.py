"""Execution of emitted graphs with emitted shards, in a process of its own: `python -m ... verify_job JOB.json ...`.

The process reads graphs and shards from disk, with the order of parameters as the artifact states it: so it proves the
files, not the code that wrote them. It computes the rows of tokens once for each batch size and each bucket of prompts
that holds them; decode steps take the buckets that hold them in turn.

    decoded      the first `prompt` tokens of each row, a step each, from an empty cache
    prompted     from an empty cache, the first `prompt` tokens by one graph of prompts, the others a step each

Rows of a batch are at positions of their own. Beyond its end a row repeats its last token; nothing reads the results.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.targets.neuron.graph.signature import STEP
from compiler.targets.neuron.parameters import RANK

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jax
    from numpy.typing import NDArray

    from compiler.targets.neuron.graph.replicas import Executable, Replicas

LOGITS = "logits.npz"
"""Result in the folder of the job: float32 [tokens, vocab] by run and row, `batch 4, prompts of 128/0`."""
EXECUTED = "executed.json"
"""Files of the graphs that ran, in the folder of the job."""


@dataclass(frozen=True)
class JobGraph:
    """One emitted graph. `inputs`: (name, shape, dtype) of each parameter, in order."""

    file: str
    kind: str
    bucket: int
    batch: int
    inputs: tuple[tuple[str, tuple[int, ...], str], ...]


@dataclass(frozen=True)
class VerifyJob:
    """Rows of token ids to compute. `shards`: file of each rank; `prompt`: tokens of each row that a prompt has;
    `slots`: whether prompts have one row, whose place in the cache is an input (continuous batching).
    """

    tp: int
    vocab: int
    graphs: tuple[JobGraph, ...]
    shards: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    prompts: tuple[int, ...]
    slots: bool = False

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> VerifyJob:
        data = json.loads(path.read_text())
        graphs = tuple(
            JobGraph(**{**one, "inputs": tuple((name, tuple(shape), dtype) for name, shape, dtype in one["inputs"])})
            for one in data["graphs"]
        )
        rows = tuple(tuple(row) for row in data["rows"])
        return cls(**{**data, "graphs": graphs, "rows": rows, "shards": tuple(data["shards"]),
                      "prompts": tuple(data["prompts"])})  # fmt: skip


class ReplicaMachine:
    """The ranks of an artifact: weights on their devices, graphs compiled when first used, one cache."""

    def __init__(self, job: VerifyJob, replicas: Replicas) -> None:
        from compiler.targets.neuron.graph.shards import read_shards

        self._job, self._replicas = job, replicas
        self._programs: dict[str, Executable] = {}
        names = dict.fromkeys(name for graph in job.graphs for name, _, _ in graph.inputs)
        wanted = [name for name in names if name not in (*STEP, RANK) and ".cache_" not in name]
        self._weights = {name: replicas.put(arrays) for name, arrays in read_shards(job.shards, wanted)}
        self._weights[RANK] = replicas.put([np.array([rank], np.int32) for rank in range(job.tp)])
        self._cache: list[jax.Array] = []

    @property
    def executed(self) -> list[str]:
        """Files of the graphs that ran."""
        return sorted(self._programs)

    def fitting(self, kind: str, batch: int, positions: int) -> list[JobGraph]:
        """Graphs whose bucket holds so many positions."""
        graphs = self._job.graphs
        return [one for one in graphs if (one.kind, one.batch) == (kind, batch) and one.bucket >= positions]

    def reset(self) -> None:
        """Empty the cache."""
        from compiler.targets.neuron.graph.shards import NUMPY

        shapes = [(shape, dtype) for name, shape, dtype in self._job.graphs[0].inputs if ".cache_" in name]
        self._cache = [self._replicas.put([np.zeros(shape, NUMPY[dtype])] * self._job.tp) for shape, dtype in shapes]

    def step(self, graph: JobGraph, step: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float32]:
        """Logits [batch, vocab] of one step; `step`: the inputs of `signature.STEP`."""
        from compiler.targets.neuron.graph.replicas import of_ranks

        caches = iter(self._cache)
        arguments = [
            self._replicas.put([step[name]] * self._job.tp)
            if name in step
            else next(caches)
            if ".cache_" in name
            else self._weights[name]
            for name, _, _ in graph.inputs
        ]
        logits, *self._cache = self._program(graph).run(arguments)
        return np.concatenate(of_ranks(logits), 1)[:, : self._job.vocab]

    def _program(self, graph: JobGraph) -> Executable:
        if graph.file not in self._programs:
            self._programs[graph.file] = self._replicas.load(Path(graph.file).read_bytes())
        return self._programs[graph.file]


def compute(job: VerifyJob, machine: ReplicaMachine) -> dict[str, list[NDArray[np.float32]]]:
    """Logits [tokens, vocab] of every row, by the graphs that computed them."""
    found = {}
    longest = max(job.prompts)
    for size in sorted({graph.batch for graph in job.graphs if graph.kind == "token"}):
        run = Run(job, machine, size)
        start = run.decoded()
        rows = 1 if job.slots else size
        prompts: list[JobGraph | None] = [*machine.fitting("context", rows, longest)]
        for graph in prompts or [None]:
            name = f"batch {size}" if graph is None else f"batch {size}, prompts of {graph.bucket}"
            found[name] = run.prompted(graph, [logits.copy() for logits in start])
    return found


@dataclass
class Run:
    """Computation of all rows with batches of `size` rows. `turn`: decode steps up to now."""

    job: VerifyJob
    machine: ReplicaMachine
    size: int
    turn: int = 0

    def decoded(self) -> list[NDArray[np.float32]]:
        """Logits of the tokens of each row's prompt, each by a decode step; zeros behind them."""
        found = [np.zeros((len(row), self.job.vocab), np.float32) for row in self.job.rows]
        for batch in self._batches():
            self.machine.reset()
            self._decode(batch, dict.fromkeys(batch, 0), {row: self.job.prompts[row] for row in batch}, found)
        return found

    def prompted(self, graph: JobGraph | None, found: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Logits `found`, with those from the last token of each prompt on. `graph` None: no prompts in one step."""
        for batch in self._batches():
            self.machine.reset()
            begin = dict.fromkeys(batch, 0)
            if graph is not None:
                self._prompt(graph, batch, found)
                begin = {row: self.job.prompts[row] for row in batch}
            self._decode(batch, begin, {row: len(self.job.rows[row]) for row in batch}, found)
        return found

    def _batches(self) -> list[list[int]]:
        """Rows that are computed together; the first row of a batch is repeated to fill it up."""
        rows = list(range(len(self.job.rows)))
        return [rows[first : first + self.size] for first in range(0, len(rows), self.size)]

    def _prompt(self, graph: JobGraph, batch: list[int], found: list[NDArray[np.float32]]) -> None:
        for slots in [[slot] for slot in range(len(batch))] if self.job.slots else [list(range(self.size))]:
            rows = [batch[slot] if slot < len(batch) else batch[0] for slot in slots]
            lengths = [self.job.prompts[row] for row in rows]
            ids = np.zeros((len(slots), graph.bucket), np.int32)
            for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                ids[place, :length] = self.job.rows[row][:length]
            logits = self.machine.step(graph, {
                "token_ids": ids,
                "cache_ids": np.tile(np.arange(graph.bucket, dtype=np.int32), (len(slots), 1)),
                "start_ids": np.array(slots, np.int32),
                "last_token_id": np.array(lengths, np.int32) - 1,
            })  # fmt: skip
            for slot, row, length, own in zip(slots, rows, lengths, logits, strict=True):
                if slot < len(batch):
                    found[row][length - 1] = own

    def _decode(
        self, batch: list[int], begin: dict[int, int], end: dict[int, int], found: list[NDArray[np.float32]]
    ) -> None:
        """Tokens `begin` to `end` of every row of a batch, one a step."""
        for step in range(max(end[row] - begin[row] for row in batch)):
            ids, positions = np.zeros((self.size, 1), np.int32), np.zeros((self.size, 1), np.int32)
            for slot in range(self.size):
                row = batch[slot] if slot < len(batch) else batch[0]
                place = min(begin[row] + step, end[row] - 1)
                ids[slot], positions[slot] = self.job.rows[row][place], place
            fitting = self.machine.fitting("token", self.size, int(positions.max()) + 1)
            self.turn += 1
            logits = self.machine.step(fitting[self.turn % len(fitting)], {
                "token_ids": ids,
                "cache_ids": positions,
                "start_ids": np.arange(self.size, dtype=np.int32),
                "last_token_id": np.zeros(self.size, np.int32),
            })  # fmt: skip
            for slot, row in enumerate(batch):
                if begin[row] + step < end[row]:
                    found[row][begin[row] + step] = logits[slot]


def main(argv: list[str]) -> None:
    """Run the jobs in the files `argv`, and write the logits of each to its folder."""
    from compiler.targets.neuron.graph.replicas import Replicas

    for path in map(Path, argv):
        job = VerifyJob.read(path)
        machine = ReplicaMachine(job, Replicas(job.tp))
        arrays: dict[str, Any] = {
            f"{name}/{row}": logits for name, rows in compute(job, machine).items() for row, logits in enumerate(rows)
        }
        np.savez(path.parent / LOGITS, **arrays)
        (path.parent / EXECUTED).write_text(json.dumps(machine.executed))


if __name__ == "__main__":
    main(sys.argv[1:])
