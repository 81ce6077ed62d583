"""The compiler neuronx-cc: its command line, one run of it, and the layout of its persistent cache.

    <root>/neuronxcc-<version>/MODULE_<graph>+<flags>/    model.hlo_module.pb compile_flags.json model.neff model.done

`graph`: first 20 hex digits of the sha256 of the graph's bytes. `flags`: first 8 of the md5 of the flags as JSON, as
published logs of the wheels of 2025 have it; the key is documented nowhere. Software that makes its own graphs does not
find these entries: it looks for the key of its own bytes.

Sources: neuronx-cc's command-line reference, the page on the persistent cache (documentation of AWS Neuron, August
2026). No neuronx-cc was run.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import CompileError, ToolchainMissing
from compiler.targets.neuron.platforms import Platform
from compiler.targets.process import NOT_STARTED, run_guarded

COMMAND = "neuronx-cc"
INSTALL = "pip install neuronx-cc --extra-index-url https://pip.repos.neuron.amazonaws.com"
FLAKY = 70
"""Exit code with which large compilations fail now and then (aws-neuron-sdk issues); they are tried again."""
RETRIES = 2
TIMEOUT_S = 6 * 3600.0
LOG_TAIL = 30
"""Last lines of the log that an error shows."""
STAND_IN = "+stand-in"
"""End of the version that stand-ins of the tests report."""
_VERSION = re.compile(r"version\s+(\S+)")


@dataclass(frozen=True)
class NeuronxRun:
    """One run of the compiler. `argv`: with paths inside the working folder; `inputs`: sha256 of each input file;
    `outputs`: files that it must write; `timeout` in seconds.
    """

    argv: tuple[str, ...]
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    timeout: float = TIMEOUT_S


def compiler_flags(platform: Platform) -> tuple[str, ...]:
    """Flags that decide the bytes of a NEFF."""
    more = (f"--lnc={platform.logical_cores}",) if platform.logical_cores > 1 else ()
    return (f"--target={platform.name}", "--model-type=transformer", "--auto-cast=none", *more)


def compiler_argv(hlo: str, neff: str, platform: Platform) -> tuple[str, ...]:
    """Command line that compiles the graph `hlo` to `neff`."""
    return (
        COMMAND, "compile", "--framework=XLA", hlo, "--output", neff, *compiler_flags(platform), "--verbose=35",
    )  # fmt: skip


def find_compiler() -> str | None:
    """Path of the command; None if it is not on PATH."""
    return shutil.which(COMMAND)


def compiler_version() -> str:
    """Version of the command on PATH. Raises ToolchainMissing."""
    command = find_compiler()
    if command is None:
        raise ToolchainMissing(f"`{COMMAND}` is not on PATH", hint=INSTALL)
    try:
        ran = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainMissing(f"`{COMMAND} --version` failed: {error}", hint=f"install it again: {INSTALL}") from error
    found = parse_version(ran.stdout + ran.stderr)
    if found is None:
        raise ToolchainMissing(
            f"`{COMMAND} --version` names no version; found `{ran.stdout[:80]}`", hint=f"install it again: {INSTALL}"
        )
    return found


def parse_version(text: str) -> str | None:
    """Version in the output of `neuronx-cc --version`; None if it has none."""
    found = _VERSION.search(text)
    return found[1] if found else None


def run_compiler(job: NeuronxRun, folder: Path) -> None:
    """Run the compiler in `folder`, again after exit code FLAKY.

    Raises ToolchainMissing, or CompileError with the exit code and the end of the log: an input that differs, a time
    limit, an output that is absent or empty.
    """
    for name, digest in job.inputs.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != digest:
            raise CompileError(f"{name}: expected sha256 {digest}; found {found}", hint="build the graph again")
    name = job.outputs[0]
    log = folder / f"{name}.log"
    tries = 0
    while True:
        for output in job.outputs:
            (folder / output).unlink(missing_ok=True)
        ended = run_guarded(job.argv, log, job.timeout, cwd=folder)
        if ended.code != FLAKY or tries == RETRIES:
            break
        tries += 1
    if ended.code == NOT_STARTED:
        raise ToolchainMissing(f"`{COMMAND}` cannot be started: {ended.output.strip()}", hint=INSTALL)
    lost = [output for output in job.outputs if not _written(folder / output)]
    if ended.code == 0 and not lost:
        log.unlink()
        return
    if ended.code == 0:
        what, hint = f"ended with exit code 0 and wrote no {lost[0]}", "the log says more"
    elif ended.code is None:
        what, hint = f"did not finish {name} in {job.timeout:g} s and was killed", "raise `--timeout`"
    elif ended.out_of_memory:
        what = f"was killed on {name} by signal 9, probably by the kernel's out-of-memory killer"
        hint = "lower `--jobs`, or build on a host with more memory"
    else:
        again = f" {RETRIES + 1} times" if ended.code == FLAKY else ""
        what, hint = f"failed{again} on {name} with exit code {ended.code}", "finished graphs are kept: build again"
    raise CompileError(
        f"`{COMMAND}` {what}. The end of its log:\n{ended.tail(LOG_TAIL)}", hint=hint, log=ended.output
    )  # fmt: skip


def _written(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def cache_folder_of(version: str, hlo: bytes, flags: Sequence[str]) -> str:
    """Folder of a graph in the persistent cache, below its root."""
    graph = hashlib.sha256(hlo).hexdigest()[:20]
    key = hashlib.md5(json.dumps(list(flags)).encode(), usedforsecurity=False).hexdigest()[:8]
    return f"neuronxcc-{version}/MODULE_{graph}+{key}"
