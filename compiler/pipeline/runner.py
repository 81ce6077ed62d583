"""A step of a build: looked up in the cache by its inputs; run and kept where it is not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.report import progress_in

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from compiler.report import Report
    from compiler.storage.cache.stages import CacheEntry, Claim, StageCache
    from compiler.storage.files.digest import Descriptor


@dataclass(frozen=True)
class Output:
    """The result of a run, beside the files in its folder. `facts`: JSON. `files`: descriptors that are known already;
    other files are read for theirs.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[Descriptor] = ()


@dataclass(frozen=True)
class Step:
    """A step with one result. `inputs`: the cache key, a dataclass; nothing else may decide the result. `run` fills an
    empty folder. `note`: the line of the progress report for a result that was made now.
    """

    name: str
    inputs: DataclassInstance
    run: Callable[[Path], Output]
    note: Callable[[CacheEntry], str] = lambda entry: f"{len(entry.files)} files"


Keep = Callable[[int, int], None]
"""`keep(done, total)`: keep the results that are whole by now, and report progress."""


@dataclass(frozen=True)
class Batch:
    """A step with several results, each cached by its own inputs. `run` makes the named results in a folder and
    calls `keep` as they get done, so that a build that is killed loses no other. `outputs(name, folder, ended)`: files
    and folders of a result, none where it is not whole yet; `ended`: `run` has returned.
    """

    name: str
    inputs: Mapping[str, DataclassInstance]
    outputs: Callable[[str, Path, bool], Sequence[Path]]
    run: Callable[[Sequence[str], Path, Keep], None]


@dataclass(frozen=True)
class CachedRunner:
    """Runs steps behind a cache. `made`: by step, the number of results that were not in the cache."""

    cache: StageCache
    report: Report
    made: dict[str, int] = field(default_factory=dict)

    def run(self, step: Step) -> CacheEntry:
        """The result of a step. Raises what `step.run` raises; nothing is kept then."""
        self.report.begin(step.name)
        entry = self.entry(step)
        self.report.end(step.note(entry) if entry.fresh else "cached")
        return entry

    def entry(self, step: Step) -> CacheEntry:
        """`run` inside a step of the progress report that has begun."""
        with self.cache.claims(step.name, {step.name: step.inputs}) as claims:
            claim = claims[step.name]
            if claim.entry is not None:
                return claim.entry
            self.made[step.name] = 1
            output = step.run(claim.folder)
            return claim.commit(output.facts, output.files)

    def run_batch(self, batch: Batch) -> dict[str, CacheEntry]:
        """The results by name; those that are not in the cache are made in one run."""
        self.report.begin(batch.name)
        with self.cache.claims(batch.name, batch.inputs) as claims:
            missing = {name: claim for name, claim in claims.items() if claim.entry is None}
            if missing:
                self.made[batch.name] = len(missing)
                with self.cache.scratch(batch.name) as out:
                    progress = progress_in(self.report, "results")

                    def keep(done: int, total: int) -> None:
                        _keep(missing, batch, out, ended=False)
                        progress(done, total)

                    batch.run(list(missing), out, keep)
                    _keep(missing, batch, out, ended=True)
                    progress(len(missing), len(missing))
            entries = {name: claim.entry for name, claim in sorted(claims.items()) if claim.entry is not None}
        self.report.end(f"{len(entries)} results, {len(entries) - len(missing)} of them cached")
        return entries


def _keep(claims: Mapping[str, Claim], batch: Batch, out: Path, *, ended: bool) -> None:
    """Commit every result that is whole."""
    for name, claim in claims.items():
        if claim.entry is None and (found := batch.outputs(name, out, ended)):
            for path in found:
                path.rename(claim.folder / path.name)
            claim.commit()
