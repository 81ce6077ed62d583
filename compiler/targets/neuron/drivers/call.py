"""One run of a driver's library on this machine, and the second that must compile nothing (restart.py)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from typing import TYPE_CHECKING

from compiler.errors import CompileError
from compiler.targets.neuron.drivers.driver import MODEL, RESULT, check_compiler, check_result, files_of, pinned
from compiler.targets.neuron.neuronx import LOG_TAIL, RETRIES, compiler_version, find_compiler
from compiler.targets.neuron.restart import CACHE, RECORD, SCRIPT, restart_of
from compiler.targets.process import NOT_STARTED, Ended, run_guarded

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.targets.neuron.drivers.driver import VendorDriver
    from compiler.targets.neuron.specs import VendorBuild
    from compiler.targets.values import Sources


def run_driver(spec: VendorBuild, out: Path, sources: Sources, timeout: float) -> None:
    """Run the library of a driver on the source model, up to three times, check its result, and run it once more from
    its compile cache. The folder of a run that failed stays in the build's cache, with the graphs that it compiled.

    Raises CompileError with the end of its log, ArtifactError if the result is not that of the plan.
    """
    driver = spec.driver
    if sources.model is None:
        raise CompileError(
            f"driver `{driver.name}` reads the model's own files; found none", hint="build from a checkpoint"
        )
    if find_compiler():
        check_compiler(driver, compiler_version())
    work = _folder(spec, out, sources)
    run = driver.run(spec.plan, spec.platform)
    for name, data in files_of(run).items():
        (work / name).write_bytes(data)
    if not (work / MODEL).exists():
        (work / MODEL).symlink_to(sources.model.resolve())
    environment = pinned(run, os.environ)
    tries = 0
    while True:
        shutil.rmtree(work / RESULT, ignore_errors=True)
        ended = run_guarded(run.argv, work / "log", timeout, cwd=work, environment=environment)
        if ended.code in (0, None, NOT_STARTED) or tries == RETRIES:
            break
        tries += 1
    if ended.code != 0:
        raise _failed(driver, ended, timeout)
    check_result(driver, spec.plan, spec.platform, work / RESULT)
    again = run_guarded(("sh", SCRIPT), work / "restart.log", timeout, cwd=work, environment=environment)
    if again.code != 0:
        raise _failed(driver, again, timeout)
    check_restart(driver, (work / RECORD).read_text(), again.tail(LOG_TAIL))
    keep_beside(work, work / RESULT)
    (work / RESULT).rename(out / spec.name)
    shutil.rmtree(work)


def check_restart(driver: VendorDriver, record: str, log: str = "") -> None:
    """Check the record of a second process. Raises CompileError for a miss of a driver whose container looks
    executables up by their key: it would compile at every start. Others carry them in their result.
    """
    found = restart_of(record)
    if driver.keyed and found.reasons:
        raise CompileError(
            f"driver `{driver.name}`: {found.text}. A container would compile at every start, too.",
            hint="its key has something that differs between two processes: see the end of the log",
            log=log,
        )


def keep_beside(work: Path, result: Path) -> None:
    """Move compile cache and record of the second process from the folder of the call into its result."""
    (work / RECORD).rename(result / RECORD)
    for lock in (work / CACHE).rglob("*.lock"):
        lock.unlink()
    (work / CACHE).rename(result / "cache")


def _folder(spec: VendorBuild, out: Path, sources: Sources) -> Path:
    """Folder of the run. In the build's cache it outlives a run that fails."""
    if sources.cache is None:
        work = out / "driver"
    else:
        key = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode()).hexdigest()[:20]
        work = sources.cache.partial / f"neuron-{spec.driver.name}-{key}"
    work.mkdir(parents=True, exist_ok=True)
    return work


def _failed(driver: VendorDriver, ended: Ended, timeout: float) -> CompileError:
    what = f"did not finish in {timeout:g} s" if ended.code is None else f"failed with exit code {ended.code}"
    return CompileError(
        f"driver `{driver.name}` {what}. The end of its log:\n{ended.tail(LOG_TAIL)}",
        hint="build again: graphs that were compiled are in its cache",
        log=ended.output,
    )
