"""Process boundary to torch's compiler and to g++.

    compile_segments ── threads ──> worker process ── torch.export, AOTInductor ──> g++ (through `_WRAPPER`)
            │                       worker process                                    │
            └── `library.py`: kernels, kept in the cache ── g++ (through `_WRAPPER`) ─────┴─> linked into each package

Bytes are reproducible: workers run in a temporary folder, the wrapper around g++ keeps this machine's paths out of the
libraries, and `worker.repack` keeps them out of the archives. Equal specs, toolchain and march give equal bytes in any
folder, in any order, with any number of jobs.
"""

from __future__ import annotations

import json
import os
import queue
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from compiler.artifact.manifest import Device
from compiler.decoder.segments import SegmentSpec
from compiler.errors import CompileError
from compiler.machine import LEVELS
from compiler.runtime.postmortem import quote
from compiler.targets.inductor import library
from compiler.targets.inductor.device import MARCH
from compiler.targets.inductor.toolchain import check_march, cxx, on_x86
from compiler.targets.inductor.toolchain import versions as toolchain_versions
from compiler.targets.values import How, Sources

if TYPE_CHECKING:
    from compiler.storage.cache.stages import StageCache

__all__ = ["compile", "compile_segments", "stand_in", "versions"]

stand_in = False
"""False: this is the real toolchain; see `compiler.targets.values.Toolchain`."""

TIMEOUT = 1800.0
"""Seconds for one segment. The slowest one measured takes a minute on two busy cores."""

_LOG_TAIL = 64_000  # characters of a worker's stderr that an error keeps

_LIBRARY = "library"  # folder of the library, in the workspace

_WRAPPER = """\
#!/bin/sh
# __FILE__ in an assertion and debug information would carry this machine's paths into the package.
exec {compiler} "$@" {march} -Wno-builtin-macro-redefined '-D__FILE__="torch"' -ffile-prefix-map="$PWD"=. -g0 -s
"""


def versions(device: str) -> dict[str, str]:
    """Versions of the toolchain, digest of our own products: part of a package's cache key. Raises ToolchainMissing."""
    return {**toolchain_versions(device), "products": library.digest()}


def compile(  # noqa: A001  # the stage's name, see `compiler.targets.values.Toolchain`
    specs: Sequence[SegmentSpec],
    out: Path,
    how: How,
    *,
    device: Device,
    sources: Sources,
    progress: Callable[[int, int], None],
) -> None:
    """Compile the packages of `specs`, which depend on no file of `sources`."""
    march, timeout = how.march or MARCH, how.timeout or TIMEOUT
    cache = None if march == "native" else sources.cache  # a shared cache serves machines with other CPUs
    compile_segments(
        specs, out, device=device.kind, march=march, jobs=how.jobs, progress=progress, timeout=timeout, cache=cache
    )


def compile_segments(
    specs: Sequence[SegmentSpec],
    out: Path,
    *,
    device: str,
    march: str,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    timeout: float = TIMEOUT,
    cache: StageCache | None = None,
) -> list[Path]:
    """Compile each spec to `<out>/<name>.pt2`, in `jobs` processes (None: one for each CPU, at most four).

    `march`: `native` or a level of x86-64; ignored on other machines. `progress(done, total)` is called from other
    threads while this function runs. Packages that were finished before a failure stay in `out`. `cache`: keeps the
    library of kernels, which is compiled for each call without one.

    Raises:
        ToolchainMissing: there is no C++ compiler.
        CompileError: a segment did not compile, or not within `timeout` seconds; the message ends with its log.
    """
    check_march(march, device)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not specs:
        return []
    with tempfile.TemporaryDirectory(prefix="lmi-compile-") as folder:
        workspace = Path(folder)
        compiler = write_wrapper(workspace, march)
        jobs = jobs or _default_jobs()
        products = workspace / _LIBRARY
        if device == "cpu" and any(spec.part in library.PARTS for spec in specs):
            if cache is None:
                library.build_library(compiler, products, jobs=jobs, timeout=timeout)
            else:
                inputs = library.LibraryInputs(versions(device), march)
                products = library.cached_library(cache, inputs, compiler, products, jobs=jobs, timeout=timeout)
        pending: queue.SimpleQueue[SegmentSpec] = queue.SimpleQueue()
        for spec in sorted(specs, key=_cost, reverse=True):
            pending.put(spec)
        finished = _Count(len(specs), progress)
        workers = [
            _Worker(workspace, index, out, compiler, products, device, march, timeout)
            for index in range(min(jobs, len(specs)))
        ]
        with ThreadPoolExecutor(len(workers)) as pool:
            try:
                running = [pool.submit(worker.run, pending, finished) for worker in workers]
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                # After a failure this ends the other workers; on success they have ended by themselves.
                for worker in workers:
                    worker.stop()
    return [out / f"{spec.name}.pt2" for spec in specs]


class _Count:
    """Thread-safe count of finished segments, reported to `progress`."""

    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self._lock, self._done, self._total, self._progress = threading.Lock(), 0, total, progress

    def add(self) -> None:
        with self._lock:
            self._done += 1
            self._progress(self._done, self._total)


class _Worker:
    """One compile process, from its thread's side of the pipes."""

    def __init__(
        self,
        workspace: Path,
        index: int,
        out: Path,
        compiler: Path,
        products: Path,
        device: str,
        march: str,
        timeout: float,
    ) -> None:
        self._folder = workspace / f"worker{index}"
        self._folder.mkdir()
        self._argv = [sys.executable, "-P", "-m", "compiler.targets.inductor.worker", str(out), device, march]
        self._environment = _environment(self._folder, compiler, products)
        self._timeout = timeout
        self._log = self._folder / "log"
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, pending: queue.SimpleQueue[SegmentSpec], finished: _Count) -> None:
        """Compile pending specs until there are none."""
        with self._log.open("w") as log:
            with self._lock:
                if self._stopped:
                    return
                self._process = process = subprocess.Popen(
                    self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                    cwd=self._folder, env=self._environment, start_new_session=True,
                )  # fmt: skip
            try:
                with suppress(queue.Empty):
                    while not self._stopped:
                        if self._compile(process, pending.get_nowait()):
                            finished.add()
            finally:
                self.stop()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        with suppress(OSError):  # an ended process leaves input unread
                            pipe.close()

    def _compile(self, process: subprocess.Popen[str], spec: SegmentSpec) -> bool:
        """Compile one spec. Returns False where another segment's failure ended this process."""
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
        if reply == spec.name:
            return True
        if self._stopped and not late.is_set():
            return False
        tail = self._log.read_text(errors="replace")[-_LOG_TAIL:]
        what = f"did not compile within {self._timeout:g} s" if late.is_set() else "did not compile"
        raise CompileError(
            f"segment `{spec.name}` {what}{quote(tail)}",
            hint="`lmi-compile doctor` checks the toolchain. `Killed` in the log means too little memory: `--jobs 1`",
            log=tail,
        )

    def stop(self) -> None:
        """Kill the process and its children (g++ is in the same session)."""
        with self._lock:
            self._stopped = True
            if self._process is None or self._process.poll() is not None:
                return
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()


def _ask(process: subprocess.Popen[str], line: str) -> str:
    """Answer of the worker to one line; "" where the process ends instead."""
    ask: IO[str] | None = process.stdin
    answer: IO[str] | None = process.stdout
    assert ask is not None
    assert answer is not None
    with suppress(BrokenPipeError):
        ask.write(line + "\n")
        ask.flush()
    return answer.readline().strip()


def _environment(folder: Path, compiler: Path, products: Path) -> dict[str, str]:
    return {
        # torch's settings in the caller's environment must not affect a package.
        **{
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("TORCHINDUCTOR_", "TORCH_COMPILE", "AOT_INDUCTOR_"))
        },
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
        "CXX": str(compiler),
        "LIBRARY_PATH": os.pathsep.join(filter(None, [str(products), os.environ.get("LIBRARY_PATH")])),
        "TMPDIR": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
        # Packages are compiled in parallel; a pool in each worker would only add its start-up time.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
        # `check_march` has checked this CPU; torch would do it by compiling ten programs (8 s).
        "TORCHINDUCTOR_VEC_ISA_OK": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C",
    }


def write_wrapper(workspace: Path, march: str) -> Path:
    """Write the wrapper that compiles packages and their library: `<workspace>/bin/g++`."""
    # inductor distinguishes g++ from clang by the file's name.
    found = Path(cxx())
    wrapper = workspace / "bin" / ("clang++" if "clang" in found.name else "g++")
    wrapper.parent.mkdir()
    flag = f"-march={march}" if march in LEVELS and on_x86() else ""
    wrapper.write_text(_WRAPPER.format(compiler=shlex.quote(str(found)), march=flag))
    wrapper.chmod(0o755)
    return wrapper


def _cost(spec: SegmentSpec) -> int:
    """Relative duration: the longest segments start first, so that none runs alone at the end."""
    order = ["embed", "head", "qkv", "mlp", "attn", "layer"]
    return 10 * order.index(spec.part) + (spec.phase == "prefill")


def _default_jobs() -> int:
    return max(1, min(len(os.sched_getaffinity(0)), 4))
