"""The boundary to `trtllm-build`: arguments, a process with a time limit, what it said, and what it left behind.

The command needs a GPU in every version, and one worker holds about three times its rank's weights in host memory
(reports of its users; it documents no figure). Flags differ by version: those marked optional are left out where the
command's own `--help` does not name them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import CompileError, MemoryCeilingError, ToolchainMissing
from compiler.ir.limits import Limits
from compiler.targets.trtllm.version import Version

COMMAND = "trtllm-build"
HOST_COPIES = 3
TIMEOUT_S = 6 * 3600
LOG_TAIL = 30
"""Lines of the log that an error shows."""
_HELP_TIMEOUT_S = 300
_OOM_EVENTS = Path("/sys/fs/cgroup/memory.events")


@dataclass(frozen=True)
class Flag:
    """`optional`: only where `--help` names it. `first`, `end`: versions that have it, the end excluded."""

    name: str
    value: str
    optional: bool = False
    first: Version = (0, 8, 0)
    end: Version = (99, 0, 0)


def flags(version: Version, dtype: str, limits: Limits, workers: int, *, experts: bool) -> list[Flag]:
    """What the builder is told besides the folders. Lengths are in tokens."""
    prompt = max(limits.max_positions - 1, 1)
    table = [
        Flag("--max_batch_size", str(limits.max_batch)),
        Flag("--max_input_len", str(prompt)),
        Flag("--max_output_len", str(limits.max_positions - prompt), end=(0, 12, 0)),
        Flag("--max_seq_len", str(limits.max_positions), first=(0, 12, 0)),
        # Prompts are fed in chunks of this many tokens, or whole where chunking is off.
        Flag("--max_num_tokens", str(max(limits.prefill_chunk * limits.max_batch, limits.max_positions))),
        Flag("--gemm_plugin", dtype),
        Flag("--gpt_attention_plugin", dtype),
        Flag("--remove_input_padding", "enable"),
        Flag("--context_fmha", "enable", optional=True),
        Flag("--paged_kv_cache", "enable", end=(0, 12, 0)),
        Flag("--kv_cache_type", "paged", optional=True, first=(0, 12, 0)),
        Flag("--workers", str(workers)),
    ]
    if experts:
        table.append(Flag("--moe_plugin", dtype, optional=True))
    return [flag for flag in table if flag.first <= version < flag.end]


def argv(checkpoint: str, output: str, chosen: Sequence[Flag], known: str | None = None) -> list[str]:
    """The command line; `known` is the text of `--help` (None: every flag is taken to be known)."""
    line = [COMMAND, "--checkpoint_dir", checkpoint, "--output_dir", output]
    for flag in chosen:
        if known is None or not flag.optional or flag.name in known:
            line += [flag.name, flag.value]
    return line


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


def available_memory() -> int:
    """Bytes that processes can still have: what the kernel says, at most what the control group leaves."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    free = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (most := limit.read_text(encoding="ascii").strip()) != "max":
        free = min(free, int(most) - int(used.read_text(encoding="ascii")))
    return max(free, 0)


def find_command() -> str:
    """Path of `trtllm-build`. Raises ToolchainMissing."""
    found = shutil.which(COMMAND)
    if found is None:
        raise ToolchainMissing(
            f"`{COMMAND}` is not on PATH",
            hint="The checkpoint is whole: run its `build.sh` where TensorRT-LLM and a GPU are.",
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


def run(line: Sequence[str], log: Path, timeout_s: float = TIMEOUT_S) -> None:
    """Run the command, its output to `log`. Its whole process group ends with it.

    Raises:
        ToolchainMissing: it cannot be started.
        CompileError: it failed, was killed, or ran too long; with the end of the log.
    """
    killed_before = _oom_kills()
    with log.open("wb") as sink:
        try:
            process = subprocess.Popen(line, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            raise ToolchainMissing(f"`{line[0]}` cannot be started: {error}") from error
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    if code == 0:
        return
    end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:])
    if code is None:
        what, hint = f"did not finish in {timeout_s:g} s and was ended", "Allow more time, or fewer ranks at a time."
    elif code in (-signal.SIGKILL, 128 + signal.SIGKILL) or _oom_kills() > killed_before:
        what = "was killed (exit by signal 9): the kernel's out-of-memory killer does that"
        hint = "Lower `--workers`, split the model over more ranks, or build on a host with more memory."
    else:
        what, hint = f"failed with exit code {code}", f"The whole log is {log}."
    raise CompileError(f"`{COMMAND}` {what}. The end of its log:\n{end}", hint=hint)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Workers outlive a builder that dies: end the group, which is the builder's own session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _oom_kills() -> int:
    """How often the kernel has killed in this control group; 0 where it does not say."""
    if not _OOM_EVENTS.exists():
        return 0
    counts = dict(line.split() for line in _OOM_EVENTS.read_text(encoding="ascii").splitlines())
    return int(counts.get("oom_kill", 0))


def write_script(path: Path, line: Sequence[str]) -> None:
    """An executable file that runs `line` from its own folder, so that relative paths mean what they mean here.

    Further arguments are passed on: `./build.sh --workers 4`.
    """
    path.write_text(
        "#!/bin/sh\n"
        "# Builds the engines of this checkpoint. Needs TensorRT-LLM and a GPU of the kind that will serve them.\n"
        "set -eu\n"
        'cd -- "$(dirname -- "$0")"\n'
        f"if ! command -v {COMMAND} >/dev/null 2>&1; then\n"
        f'    echo "{COMMAND} is not on PATH: run this in an image with TensorRT-LLM" >&2\n'
        "    exit 6\n"
        "fi\n"
        f'exec {shlex.join(line)} "$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o755)
