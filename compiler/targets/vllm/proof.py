"""Proof that a start took every kernel from the cache. Log lines and counters alone pass false hits, so in this order:

files        no new file in a cache folder, in HOME or in the temporary folder: catches every false hit known. Dialect J
             writes torch's entries of a graph again while it loads them: the same bytes under the same name
compilers    no process ran a compiler (audit hook of the carrier)
counters     of vLLM and torch, in every worker
answers      tokens equal to the server's that baked, log probabilities within TOLERANCE
time         CPU-seconds within BUDGET of those of the start that compiled
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compiler.storage.files.digest import sha256_file
from compiler.targets.vllm.harvest import cache_files, names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from compiler.targets.vllm.environment import Dialect

TOLERANCE = 1e-3
"""Largest difference of a log probability between two starts that run the same kernels."""
BUDGET, SLACK = 1.0, 2.0
"""Largest ratio of CPU-seconds to those of the start that compiled, and CPU-seconds that are always allowed."""
UNCOMPARED = "batch"
"""Request whose answers are not compared: which rows share a step, and so the order of sums, differs between starts."""
_KERNELS = (".so", ".cpp", ".o", ".cubin", ".ptx", ".ttir", ".ttgir", ".llir", ".hsaco")
"""Suffixes of files that only a compiler leaves in HOME or in the temporary folder."""
_KERNEL_FOLDERS = ("torchinductor_", ".triton/", "ComputeCache/", ".cache/vllm/", "deep_gemm", "flashinfer")
_ENTRIES = re.compile(r"(^|/)(aotautograd|fxgraph)/")
"""Folders of torch's entries of graphs, each named by the digest of its bytes. `CompiledArtifact.load` of torch 2.13
writes them again (torch/_inductor/standalone_compile.py); kernels are in other folders.
"""
_MISSES = ("fxgraph_cache_miss", "autograd_cache_miss")
COMPILED: Mapping[Dialect, tuple[str, ...]] = {
    "J": ("num_compiled_artifacts_saved", "num_cache_entries_updated", *_MISSES),
    "A": ("num_inductor_compiles", "num_aot_compiles", *_MISSES),
    "M": ("num_inductor_compiles", "num_aot_compiles", *_MISSES),
}
"""Counters that must be absent or 0. `num_inductor_compiles` says nothing in dialect J: vLLM counts a call for each
graph that equals an earlier one, and then takes the artifact of that (`StopCompiling` in vllm/compilation/backends.py).
"""
LOADED: Mapping[Dialect, tuple[str, ...]] = {
    "J": ("num_compiled_artifacts_loaded", "fxgraph_cache_hit"),
    "A": ("num_aot_artifacts_loaded",),
    "M": ("num_aot_artifacts_loaded",),
}
"""Counters of which one at least must be above 0, in every process that has a model."""

Record = dict[str, Any]
"""Content of a record of the carrier, see carrier/watch.py."""


@dataclass(frozen=True)
class Start:
    """One start of a server. `files`: new files by folder; `records`: of its processes; `session`: see session.py."""

    files: Mapping[str, tuple[str, ...]]
    records: tuple[Record, ...]
    session: Mapping[str, Any]

    @property
    def models(self) -> tuple[Record, ...]:
        """Records of the processes that run a model: one for each rank."""
        return tuple(record for record in self.records if record["counters"].get("num_models_seen"))

    @property
    def compilers(self) -> int:
        """Runs of a compiler in all processes."""
        return sum(record["compilers"] for record in self.records)


@dataclass(frozen=True)
class HitVerdict:
    """Whether a start was a hit; `reasons` why not, one line each. `counters`: sums over the ranks."""

    hit: bool
    reasons: tuple[str, ...]
    counters: Mapping[str, int] = field(default_factory=dict)
    largest_difference: float = 0.0


def records_of(folder: Path) -> tuple[Record, ...]:
    """Records that the carrier left in `folder`, by process."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9]*.json"))]
    return tuple(record for record in found if "counters" in record)


def new_files(root: Path, before: frozenset[str], folders: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """New files below `root`, and files of kernels in the other `folders`, which were empty."""
    found = {"root": tuple(sorted(names(root) - before))}
    for name, folder in folders.items():
        found[name] = tuple(sorted(path for path in names(folder) if _is_kernel(path)))
    return found


def written_since(root: Path, restored: Mapping[str, str], mark: Path) -> tuple[str, ...]:
    """Files below `root` that are not among the `restored` (digest by path), or were written after the file `mark`.

    A kernel that was deleted and compiled again has the path of a restored one. Entries of graphs that were written
    again with the same bytes are left out.
    """
    moment = mark.stat().st_mtime_ns
    late = {path.relative_to(root).as_posix(): path for path in cache_files(root) if path.stat().st_mtime_ns > moment}
    again = {name for name, path in late.items() if _ENTRIES.search(name) and restored.get(name) == sha256_file(path)}
    return tuple(sorted((names(root) - restored.keys()) | (late.keys() - again)))


def _is_kernel(path: str) -> bool:
    return path.endswith(_KERNELS) or any(folder in path for folder in _KERNEL_FOLDERS)


def judge(start: Start, baked: Mapping[str, Any], dialect: Dialect, ranks: int) -> HitVerdict:
    """HitVerdict on a start. `baked`: session of the start that compiled."""
    difference, differing = compare(baked["answers"], start.session["answers"])
    reasons = [
        *_not_served(start.session),
        *_files(start.files),
        *([f"{start.compilers} run(s) of a compiler"] if start.compilers else []),
        *_counters(start.models, dialect, ranks),
        *differing,
        *_late(start.session, baked),
    ]
    return HitVerdict(not reasons, tuple(reasons), counters_of(start.models), difference)


def counters_of(records: Sequence[Record]) -> dict[str, int]:
    """Counters summed over processes."""
    total: Counter[str] = Counter()
    for record in records:
        total.update(record["counters"])
    return {name: count for name, count in sorted(total.items()) if count}


def _not_served(session: Mapping[str, Any]) -> Iterator[str]:
    if session["error"] or session["ready"] is None:
        yield f"the server did not answer: {session['error'] or 'never ready'}"


def _files(files: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    for folder, paths in files.items():
        yield f"{len(paths)} new file(s) in {folder}, such as {paths[0]}"


def _counters(models: Sequence[Record], dialect: Dialect, ranks: int) -> Iterator[str]:
    if len(models) < ranks:
        yield f"{len(models)} process(es) recorded a model; expected {ranks}"
    for record in models:
        counters = record["counters"]
        for name in COMPILED[dialect]:
            if counters.get(name):
                yield f"process {models.index(record)}: {name} is {counters[name]}; expected 0"
        if not any(counters.get(name) for name in LOADED[dialect]):
            yield f"process {models.index(record)}: {' and '.join(LOADED[dialect])} are 0; expected a loaded artifact"


def _late(session: Mapping[str, Any], baked: Mapping[str, Any]) -> Iterator[str]:
    if session["ready"] and baked["ready"] and session["cpu"] > BUDGET * baked["cpu"] + SLACK:
        yield f"{session['cpu']:.1f} CPU-seconds; the start that compiled took {baked['cpu']:.1f}"


def compare(baked: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[float, tuple[str, ...]]:
    """Largest difference of log probabilities, and a line for each request whose answers differ."""
    largest, lines = 0.0, []
    for name, answers in baked.items():
        if name not in found or name == UNCOMPARED:
            continue
        for expected, actual in zip(answers, found[name], strict=True):
            tokens, probabilities = content(expected)
            other_tokens, others = content(actual)
            if tokens != other_tokens or len(probabilities) != len(others):
                lines.append(f"request `{name}`: other tokens than the server that baked")
                continue
            differences = [abs(a - b) for a, b in zip(probabilities, others, strict=True)]
            largest = max([largest, *differences])
            if differences and max(differences) > TOLERANCE:
                lines.append(f"request `{name}`: log probabilities differ by {max(differences):.2g}")
    return largest, tuple(lines)


def content(answer: Any) -> tuple[list[Any], list[float]]:
    """Tokens (ids, else the text) and log probabilities of an answer of /v1/completions; of a stream the whole text."""
    if isinstance(answer, list):  # how many tokens an event carries is a matter of time
        return ["".join(choice.get("text", "") for event in answer for choice in event.get("choices", []))], []
    tokens: list[Any] = []
    probabilities: list[float] = []
    for choice in answer.get("choices", []):
        tokens += choice.get("token_ids") or [choice.get("text", "")]
        found = choice.get("logprobs") or {}
        probabilities += [value for value in found.get("token_logprobs") or [] if value is not None]
        for place in choice.get("prompt_logprobs") or []:
            probabilities += [entry["logprob"] for _, entry in sorted((place or {}).items())]
    return tokens, probabilities
