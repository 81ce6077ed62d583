"""The boundary to `trtllm-build`: a process with a time limit, what it said, and what it left behind.

The command needs a GPU in every version, and one worker holds about three times its rank's weights in host memory
(reports of its users; it documents no figure).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from compiler.artifact.manifest import Device
from compiler.errors import CompileError, MemoryCeilingError, ToolchainMissing
from compiler.machine import available_memory, gpus
from compiler.targets.trtllm import guard
from compiler.targets.trtllm.command import COMMAND, argv
from compiler.targets.trtllm.engines import check_engines
from compiler.targets.trtllm.host import PACKAGES
from compiler.targets.trtllm.spec import EnginesSpec
from compiler.targets.trtllm.version import parse_version, show
from compiler.targets.values import How, Sources

stand_in = False
"""Whether this toolchain is one of the tests; what an engine says of itself is looked at besides."""

HOST_COPIES = 3
TIMEOUT_S = 6 * 3600
LOG_TAIL = 30
"""Lines of the log that an error shows."""
_HELP_TIMEOUT_S = 300
_WATCH_S = 1.0
"""Seconds between two looks at what the builder has finished."""
_OOM_EVENTS = Path("/sys/fs/cgroup/memory.events")


def versions(_device: str) -> dict[str, str]:
    """Of the packages behind the command, where its own Python tells, and of the GPU's driver. Raises ToolchainMissing.

    The engines name the TensorRT-LLM that built them themselves (`engines.py`).
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
    """Build the engines of the checkpoint and leave them in `out`.

    Raises:
        ToolchainMissing: there is no `trtllm-build`, or one of another version.
        MemoryCeilingError: not even one rank fits into the host's memory.
        CompileError: it failed, or what it left does not fit the checkpoint.
    """
    del device  # the one that the driver gives the command
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
            f"this checkpoint is for TensorRT-LLM {show(spec.version)}; `{command}` is of {found}",
            hint=f"build with `--trtllm-version {found}`, or in an image that carries {show(spec.version)}",
        )


def _installed(command: Path, package: str) -> str:
    """Version of a package beside a command that pip installed: its first line names the Python it runs in."""
    with command.open("rb") as file:
        first = file.readline(512)
    if not first.startswith(b"#!"):
        return ""
    python = first[2:].decode(errors="replace").split()
    ask = f"from importlib.metadata import version; print(version({package!r}))"
    try:
        asked = subprocess.run([*python, "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip()


def workers_for(ranks: int, rank_bytes: int, devices: int, host_memory: int) -> int:
    """Ranks to build at a time, on as many devices, so that host memory holds them.

    Raises:
        MemoryCeilingError: not even one.
    """
    need = HOST_COPIES * rank_bytes
    if need > host_memory:
        raise MemoryCeilingError(
            f"building one rank takes about {need:,} bytes of host memory; available are {host_memory:,}",
            hint="Split the model over more ranks, or build on a larger host.",
        )
    return max(1, min(ranks, devices, host_memory // max(need, 1)))


def find_command() -> str:
    """Path of `trtllm-build`. Raises ToolchainMissing."""
    found = shutil.which(COMMAND)
    if found is None:
        raise ToolchainMissing(
            f"`{COMMAND}` is not on PATH",
            hint="Its `build-engines.sh` builds the engines where TensorRT-LLM and a GPU are, or in the LMI image "
            "(`build-engines.sh --docker`).",
        )
    return found


def help_text(command: str) -> str:
    """What the command says of its flags. Raises CompileError where it cannot even do that."""
    try:
        asked = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=_HELP_TIMEOUT_S, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise CompileError(
            f"`{COMMAND} --help` failed: {error}", hint="The installation of TensorRT-LLM is not whole: try it by hand."
        ) from error
    return asked.stdout + asked.stderr


def run(line: Sequence[str], log: Path, timeout_s: float = TIMEOUT_S, watch: Callable[[], None] = lambda: None) -> None:
    """Run the command, its output to `log`. Its whole process group ends with it, and with this process (guard.py).
    `watch` is called now and then.

    Raises:
        ToolchainMissing: it cannot be started.
        CompileError: it failed, was killed, or ran too long; with the end of the log.
    """
    killed_before = _oom_kills()
    guarded = [sys.executable, "-I", "-S", guard.__file__, *line]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            guarded, stdin=subprocess.PIPE, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = _wait(process, timeout_s, watch)
        finally:
            _end(process)
    if code == 0:
        return
    if code == 127:
        said = log.read_text(encoding="utf-8", errors="replace").strip()
        raise ToolchainMissing(f"`{line[0]}` cannot be started: {said}", hint="Its installation is not whole.")
    end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:])
    if code is None:
        what, hint = f"did not finish in {timeout_s:g} s and was ended", "Allow more time, or fewer ranks at a time."
    elif code in (-signal.SIGKILL, 128 + signal.SIGKILL) or _oom_kills() > killed_before:
        what = "was killed (exit by signal 9): the kernel's out-of-memory killer does that"
        hint = "Lower `--workers`, split the model over more ranks, or build on a host with more memory."
    else:
        what, hint = f"failed with exit code {code}", f"The whole log is {log}."
    raise CompileError(f"`{COMMAND}` {what}. The end of its log:\n{end}", hint=hint)


def _wait(process: subprocess.Popen[bytes], timeout_s: float, watch: Callable[[], None]) -> int | None:
    """Its exit code; None where time was up."""
    end = time.monotonic() + timeout_s
    while (left := end - time.monotonic()) > 0:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(left, _WATCH_S))
        watch()
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Workers outlive a builder that dies: end the group, which is the guard's own session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _oom_kills() -> int:
    """How often the kernel has killed in this control group; 0 where it does not say."""
    if not _OOM_EVENTS.exists():
        return 0
    counts = dict(line.split() for line in _OOM_EVENTS.read_text(encoding="ascii").splitlines())
    return int(counts.get("oom_kill", 0))
