"""Toolchain `trtllm-build`: a process with a time limit, a log, and a check of its output.

All versions need a GPU, and one worker holds about three times its rank's weights in host memory (users' reports; the
figure is not documented).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from compiler.artifact.manifest import Device
from compiler.errors import CompileError, MemoryCeilingError, ToolchainMissing
from compiler.machine import available_memory, gpus
from compiler.targets.process import NOT_STARTED, run_guarded
from compiler.targets.trtllm.command import COMMAND, argv
from compiler.targets.trtllm.engines import check_engines
from compiler.targets.trtllm.host import PACKAGES
from compiler.targets.trtllm.spec import EnginesSpec
from compiler.targets.trtllm.version import parse_version, show
from compiler.targets.values import How, Sources

stand_in = False
"""Whether this toolchain is a stand-in of the tests; engines are checked for it too."""

HOST_COPIES = 3
TIMEOUT_S = 6 * 3600
LOG_TAIL = 30
"""Last lines of the log that an error shows."""
_HELP_TIMEOUT_S = 300


def versions(_device: str) -> dict[str, str]:
    """Versions of the command's Python packages, if known, and of the GPU's driver. Raises ToolchainMissing.

    Engines name the TensorRT-LLM that built them (`engines.py`).
    """
    command = Path(find_command())
    found = {name: number for name in PACKAGES if (number := _installed(command, name))}
    _, driver = gpus()
    if driver is not None:
        found["driver"] = driver
    return found


def compile(  # noqa: A001  # the stage's name, see `compiler.targets.values.Toolchain`
    specs: Sequence[EnginesSpec],
    out: Path,
    how: How,
    *,
    device: Device,
    sources: Sources,
    progress: Callable[[int, int], None],
) -> None:
    """Build the engines of the checkpoint into `out`.

    Raises:
        ToolchainMissing: there is no `trtllm-build`, or one of another version.
        MemoryCeilingError: building one rank needs more than the host's memory.
        CompileError: it failed, or the engines do not fit the checkpoint.
    """
    del device  # the driver chooses it
    command, checkpoint = find_command(), sources.checkpoint
    for spec in specs:
        _check_version(command, spec)
        folder = out / spec.name

        def watch(folder: Path = folder, ranks: int = spec.ranks) -> None:
            progress(len(list(folder.glob("rank*.engine"))), ranks)

        workers = how.jobs or workers_for(spec.ranks, spec.rank_bytes, max(len(gpus()[0]), 1), available_memory())
        line = argv(str(checkpoint), str(folder), spec.flags, help_text(command))
        with tempfile.NamedTemporaryFile(prefix=f"{COMMAND}-", suffix=".log", delete=False) as log:
            run(
                [*line, "--workers", str(min(workers, spec.ranks))],
                Path(log.name),
                how.timeout or TIMEOUT_S,
                watch=watch,
            )
        check_engines(folder, json.loads((checkpoint / "config.json").read_bytes()), spec.version, spec.limits)
        Path(log.name).unlink()
        for output in spec.outputs:
            (folder / output).rename(out / output)
        watch(out)


def _check_version(command: str, spec: EnginesSpec) -> None:
    found = _installed(Path(command), "tensorrt_llm")
    if found and parse_version(found)[:2] != spec.version[:2]:
        raise ToolchainMissing(
            f"this checkpoint is for TensorRT-LLM {show(spec.version)}; `{command}` is from {found}",
            hint=f"build with `--trtllm-version {found}`, or in an image with {show(spec.version)}",
        )


def _installed(command: Path, package: str) -> str:
    """Version of a package in the Python of a command that pip installed, named in its first line; "" if unknown."""
    with command.open("rb") as file:
        first = file.readline(512)
    if not first.startswith(b"#!"):
        return ""
    python = first[2:].decode(errors="replace").split()
    code = f"from importlib.metadata import version; print(version({package!r}))"
    try:
        ran = subprocess.run([*python, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip()


def workers_for(ranks: int, rank_bytes: int, devices: int, host_memory: int) -> int:
    """Number of ranks to build at the same time, by devices and host memory.

    Raises:
        MemoryCeilingError: building one rank needs more than `host_memory`.
    """
    need = HOST_COPIES * rank_bytes
    if need > host_memory:
        raise MemoryCeilingError(
            f"building one rank takes about {need:,} bytes of host memory; available are {host_memory:,}",
            hint="split the model over more ranks, or build on a larger host",
        )
    return max(1, min(ranks, devices, host_memory // max(need, 1)))


def find_command() -> str:
    """Path of `trtllm-build`. Raises ToolchainMissing."""
    found = shutil.which(COMMAND)
    if found is None:
        raise ToolchainMissing(
            f"`{COMMAND}` is not on PATH",
            hint="run the artifact's `build-engines.sh` on a GPU host with TensorRT-LLM, or in the LMI image "
            "(`build-engines.sh --docker`)",
        )
    return found


def help_text(command: str) -> str:
    """Help of the command, which lists its flags. Raises CompileError."""
    try:
        ran = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=_HELP_TIMEOUT_S, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise CompileError(
            f"`{COMMAND} --help` failed: {error}", hint="run it by hand: the installation of TensorRT-LLM is damaged"
        ) from error
    return ran.stdout + ran.stderr


def run(line: Sequence[str], log: Path, timeout_s: float = TIMEOUT_S, watch: Callable[[], None] = lambda: None) -> None:
    """Run the command with its output in `log`, see process.py. `watch` is called every second.

    Raises:
        ToolchainMissing: it cannot be started.
        CompileError: it failed, was killed, or exceeded the time limit; with the end of the log.
    """
    ended = run_guarded(line, log, timeout_s, watch)
    if ended.code == 0:
        return
    if ended.code == NOT_STARTED:
        raise ToolchainMissing(
            f"`{line[0]}` cannot be started: {ended.output.strip()}", hint="install TensorRT-LLM again"
        )
    if ended.code is None:
        what, hint = f"did not finish in {timeout_s:g} s and was killed", "raise `--timeout`, or lower `--workers`"
    elif ended.out_of_memory:
        what = "was killed by signal 9, probably by the kernel's out-of-memory killer"
        hint = "lower `--workers`, split the model over more ranks, or build on a host with more memory"
    else:
        what, hint = f"failed with exit code {ended.code}", f"the whole log is {log}"
    raise CompileError(f"`{COMMAND}` {what}. The end of its log:\n{ended.tail(LOG_TAIL)}", hint=hint)
