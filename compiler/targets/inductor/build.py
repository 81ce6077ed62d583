"""The process boundary to torch's compiler and to g++.

    compile_segments ── threads ──> worker process ── torch.export, AOTInductor ──> g++ (through `_WRAPPER`)
                                    worker process

Bytes are reproducible wherever they are compiled: workers run in a folder of their own that is gone afterwards, and the
wrapper around g++ keeps this machine's paths and its symbols out of the libraries (`worker.repack` out of the archives).
The same specs, toolchain and march give the same bytes in any folder, in any order, with any number of jobs.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from compiler.artifact.isa import LEVELS, isa, missing_for
from compiler.errors import CompileError, ToolchainMissing
from compiler.targets.inductor.segments import SegmentSpec

stand_in = False
"""This is the real toolchain; see `compiler.stages.compile.Toolchain`."""

TIMEOUT = 1800.0
"""Seconds for one segment. The slowest measured takes a minute on two busy cores."""

_LOG_TAIL = 4000  # characters of a worker's stderr in an error

_WRAPPER = """\
#!/bin/sh
# __FILE__ in an assertion and debug information would carry this machine's paths into the package.
exec {compiler} "$@" {march} -Wno-builtin-macro-redefined '-D__FILE__="torch"' -ffile-prefix-map="$PWD"=. -g0 -s
"""


def versions(device: str) -> dict[str, str]:
    """Exact versions of all that decides the bytes of a package. Does not import torch for the CPU.

    Raises:
        ToolchainMissing: no torch, no g++, or (for cuda) no GPU that torch can use.
    """
    compiler = cxx()
    try:
        found = {"torch": version("torch")}
    except PackageNotFoundError:
        raise ToolchainMissing(
            "target `inductor` needs torch 2.11 or newer; it is not installed", hint="pip install torch"
        ) from None
    found["cxx"] = _first_line([compiler, "--version"])
    found["ld"] = _first_line([_first_line([compiler, "-print-prog-name=ld"]), "--version"])
    if device == "cuda":
        found |= _cuda_versions()
    return found


def cxx() -> str:
    """Path of the C++ compiler: `$CXX` or g++. Raises ToolchainMissing."""
    wanted = os.environ.get("CXX", "g++")
    path = shutil.which(wanted)
    if path is None:
        raise ToolchainMissing(
            f"target `inductor` compiles with a C++ compiler; `{wanted}` was not found on PATH",
            hint="install g++ (Debian, Ubuntu: `apt-get install g++`; Amazon Linux: `dnf install gcc-c++`), or set CXX. "
            "Only building needs it, running an artifact does not",
        )
    return path


def compile_segments(
    specs: Sequence[SegmentSpec],
    out: Path,
    *,
    device: str,
    march: str,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    timeout: float = TIMEOUT,
) -> list[Path]:
    """Compile each spec to `<out>/<name>.pt2`, in `jobs` processes (None: one for each CPU, four at most).

    `march` is `native`, a level of x86-64, or ignored on other machines; `progress(done, of)` is called in this
    thread's time but from another thread. Packages that were finished before a failure stay in `out`.

    Raises:
        ToolchainMissing: there is no C++ compiler.
        CompileError: a segment did not compile, or not within `timeout` seconds; the message ends with its log.
    """
    _check_march(march, device)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not specs:
        return []
    with tempfile.TemporaryDirectory(prefix="lmi-compile-") as folder:
        workspace = Path(folder)
        compiler = _write_wrapper(workspace, march)
        pending: queue.SimpleQueue[SegmentSpec] = queue.SimpleQueue()
        for spec in sorted(specs, key=_cost, reverse=True):
            pending.put(spec)
        finished = _Count(len(specs), progress)
        workers = [
            _Worker(workspace, index, out, compiler, device, march, timeout)
            for index in range(min(jobs or _default_jobs(), len(specs)))
        ]
        with ThreadPoolExecutor(len(workers)) as pool:
            try:
                running = [pool.submit(worker.run, pending, finished) for worker in workers]
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                # On success they have ended by themselves; otherwise their threads now see the end of their output.
                for worker in workers:
                    worker.stop()
    return [out / f"{spec.name}.pt2" for spec in specs]


class _Count:
    """How many segments are done, told to `progress`; used by several threads."""

    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self._lock, self._done, self._total, self._progress = threading.Lock(), 0, total, progress

    def add(self) -> None:
        with self._lock:
            self._done += 1
            self._progress(self._done, self._total)


class _Worker:
    """One compile process and the thread's side of its pipes."""

    def __init__(
        self, workspace: Path, index: int, out: Path, compiler: Path, device: str, march: str, timeout: float
    ) -> None:
        self._folder = workspace / f"worker{index}"
        self._folder.mkdir()
        self._argv = [sys.executable, "-P", "-m", "compiler.targets.inductor.worker", str(out), device, march]
        self._environment = _environment(workspace, self._folder, compiler)
        self._timeout = timeout
        self._log = self._folder / "log"
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, pending: queue.SimpleQueue[SegmentSpec], finished: _Count) -> None:
        """Compile what is pending until nothing is."""
        with self._log.open("w") as log:
            with self._lock:
                if self._stopped:
                    return
                self._process = process = subprocess.Popen(
                    self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                    cwd=self._folder, env=self._environment, start_new_session=True,
                )  # fmt: skip
            with suppress(queue.Empty):
                while not self._stopped:
                    self._compile(process, pending.get_nowait())
                    finished.add()
        self.stop()

    def _compile(self, process: subprocess.Popen[str], spec: SegmentSpec) -> None:
        late = threading.Event()

        def too_late() -> None:
            late.set()
            self.stop()

        timer = threading.Timer(self._timeout, too_late)
        timer.start()
        try:
            reply = _ask(process, json.dumps(spec.to_json()))
        finally:
            timer.cancel()
        if reply == spec.name or self._stopped and not late.is_set():
            return
        tail = self._log.read_text(errors="replace")[-_LOG_TAIL:]
        what = f"did not compile within {self._timeout:g} s" if late.is_set() else "did not compile"
        raise CompileError(
            f"segment `{spec.name}` {what}. The end of the compiler's log:\n{tail}",
            hint="`lmi-compile doctor` checks the toolchain. Too little memory ends g++ with `Killed`: try `--jobs 1`",
        )

    def stop(self) -> None:
        """End the process and what it started (g++ has the same session)."""
        with self._lock:
            self._stopped = True
            if self._process is None or self._process.poll() is not None:
                return
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()


def _ask(process: subprocess.Popen[str], line: str) -> str:
    """The worker's answer to one line; empty where the process ends instead."""
    ask: IO[str] | None = process.stdin
    answer: IO[str] | None = process.stdout
    assert ask is not None
    assert answer is not None
    with suppress(BrokenPipeError):
        ask.write(line + "\n")
        ask.flush()
    return answer.readline().strip()


def _environment(workspace: Path, folder: Path, compiler: Path) -> dict[str, str]:
    shared = workspace / "shared"
    shared.mkdir(exist_ok=True)
    return {
        # Settings of torch in the caller's environment must not reach a package.
        **{k: v for k, v in os.environ.items() if not k.startswith(("TORCHINDUCTOR_", "TORCH_COMPILE", "AOT_INDUCTOR_"))},
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
        "CXX": str(compiler),
        # Precompiled headers go to the temporary folder: all workers share one.
        "TMPDIR": str(shared),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
        # Packages are compiled side by side; a pool in each worker would only cost its start.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C",
    }


def _write_wrapper(workspace: Path, march: str) -> Path:
    # The name matters: inductor tells g++ from clang by it.
    found = Path(cxx())
    wrapper = workspace / "bin" / ("clang++" if "clang" in found.name else "g++")
    wrapper.parent.mkdir()
    flag = f"-march={march}" if march in LEVELS and _on_x86() else ""
    wrapper.write_text(_WRAPPER.format(compiler=shlex.quote(str(found)), march=flag))
    wrapper.chmod(0o755)
    return wrapper


def _check_march(march: str, device: str) -> None:
    if device != "cpu" or march == "native" or not _on_x86():
        return
    lacking = missing_for(march)
    if lacking is None:
        raise CompileError(f"`{march}` is no level of x86-64; known: native, {', '.join(LEVELS)}")
    if lacking:
        # Not g++ but torch decides by this CPU whether it writes vector code.
        raise CompileError(
            f"torch compiles {march} only on a CPU that runs it; this one is {isa()} and lacks {', '.join(lacking)}",
            hint=f"build on a machine with {march}, or with `--march {isa()}`",
        )


def _on_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _cost(spec: SegmentSpec) -> int:
    """The longest first, so that no process is left alone with it at the end."""
    order = ["embed", "head", "mlp", "attn"]
    return 10 * order.index(spec.part) + (spec.phase == "prefill")


def _default_jobs() -> int:
    return max(1, min(len(os.sched_getaffinity(0)), 4))


def _first_line(argv: list[str]) -> str:
    try:
        run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainMissing(
            f"`{shlex.join(argv)}` does not work: {error}", hint="reinstall g++ (with binutils)"
        ) from error
    return (run.stdout.splitlines() or [""])[0].strip()


def _cuda_versions() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        raise ToolchainMissing(
            "`--device cuda` compiles on the GPU that will run it, and torch sees none here",
            hint="build on a machine with the GPU and a CUDA build of torch, or with `--device cpu`",
        )
    major, minor = torch.cuda.get_device_capability()
    return {"cuda": str(torch.version.cuda), "capability": f"{major}.{minor}", "triton": version("triton")}
