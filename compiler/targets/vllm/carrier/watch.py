"""Observation of one vLLM process: programs that it runs, counters of its compiler, factors of its cache key.

Written to RECORD/<pid>.json, which is replaced whenever something changed: a worker is killed without notice. Values of
environment variables and factors are written as the first digits of their sha256, so that no secret gets into a file.

    argv, programs    command line; programs run (their first three words), up to a limit
    compilers         number of runs of a compiler (COMPILERS) that write a file; `compiled`: their command lines
    counters          vLLM's compilation counters, and torch's counters of its caches (0 = absent)
    factors           {group: {name: digest}}: everything that a key of vLLM's caches depends on, see `_factors`
    problem           reason why the cache was not restored; "" where it was
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import json
import os
import platform
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMPILERS = ("g++", "gcc", "c++", "cc1plus", "clang++", "clang", "nvcc", "ptxas", "cicc", "ninja")
"""Programs that compile kernels: C++ compilers, CUDA's, and that of Triton."""
_PROBES = ("--version", "-dumpversion", "-E", "-v", "--help")
"""First options of runs that compile nothing."""
_INTERVAL = 0.25
"""Seconds between two looks at the counters."""
_MOST_PROGRAMS = 200
_LINE = 8000
"""Characters of a compiler's command line: two that differ explain why a kernel was compiled again."""
_TORCH_COUNTERS = {
    "inductor": ("fxgraph_cache_miss", "fxgraph_cache_hit", "fxgraph_lookup_write_file"),
    "aot_autograd": ("autograd_cache_miss", "autograd_cache_hit"),
}
_CACHES = (
    "VLLM_CACHE_ROOT",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "DG_JIT_CACHE_DIR",
    "FLASHINFER_WORKSPACE_BASE",
)
"""Variables that say where caches are; their values may differ between two starts that share a key."""


class CompilerRun(RuntimeError):
    """A compiler was about to run although every kernel should be in the cache."""


class Watch:
    """Record of this process. `refuse`: raise CompilerRun in the place of running a compiler."""

    def __init__(self, record: Path, *, refuse: bool = False) -> None:
        self._file, self._refuse = record / f"{os.getpid()}.json", refuse
        self._lock, self._last, self._pid = threading.RLock(), "", os.getpid()
        self._programs: list[list[str]] = []
        self._compilers = 0
        self._compiled: list[str] = []
        self._factors: dict[str, dict[str, str]] = {}
        self.problem = ""
        record.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Watch from now on, until the process ends."""
        sys.addaudithook(self._hear)
        atexit.register(self.write)
        threading.Thread(target=self._look, daemon=True, name="lmi-boot-watch").start()

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("subprocess.Popen", "os.posix_spawn", "os.exec"):
            return
        words = _words(arguments[1] if event != "subprocess.Popen" else arguments[1] or arguments[0])
        with self._lock:
            if len(self._programs) < _MOST_PROGRAMS:
                self._programs.append([Path(word).name if i == 0 else word[:80] for i, word in enumerate(words[:3])])
            compiles = is_compiler(words)
            self._compilers += compiles
            if compiles and len(self._compiled) < _MOST_PROGRAMS:
                self._compiled.append(" ".join(words)[:_LINE])
        if compiles and self._refuse:
            self.write()
            raise CompilerRun(f"the cache does not have a kernel: `{Path(words[0]).name}` was about to run")

    def _look(self) -> None:
        wait = threading.Event()
        while not wait.wait(_INTERVAL):
            self.write()

    def write(self) -> None:
        """Replace the record, if it changed."""
        if os.getpid() != self._pid:  # a fork inherits this object, and not the thread
            return
        with self._lock:
            text = json.dumps(self._facts(), indent=1, sort_keys=True)
            if text == self._last:
                return
            part = self._file.with_suffix(f".{os.getpid()}.part")
            try:
                part.write_text(text + "\n")
                part.replace(self._file)
            except OSError:
                return
            self._last = text

    def _facts(self) -> dict[str, Any]:
        try:
            self._factors = {**self._factors, **_factors()}
        except Exception:  # noqa: BLE001  # a look at another library's internals must not end its process
            self._factors.setdefault("unread", {"factors": "1"})
        return {
            "pid": self._pid,
            "argv": sys.argv[:40],
            "title": threading.main_thread().name,
            "programs": self._programs,
            "compilers": self._compilers,
            "compiled": self._compiled,
            "counters": _counters(),
            "problem": self.problem,
            "factors": {**self._factors, **_CONFIGS},
        }


def is_compiler(words: list[str]) -> bool:
    """Whether a command line compiles: a compiler's name (`g++-12`, `x86_64-linux-gnu-g++`), and an output file."""
    if not words or not any(part in COMPILERS for part in _names(Path(words[0]).name)):
        return False
    return not any(word in _PROBES for word in words[1:]) and any(
        word == "-o" or word.endswith(".so") for word in words
    )


def _names(program: str) -> list[str]:
    """Name of a program, and its parts between hyphens."""
    return [program, *program.split("-")]


def _words(command: object) -> list[str]:
    if isinstance(command, str | bytes | os.PathLike):
        return os.fsdecode(command).split()
    return [os.fsdecode(word) for word in command] if isinstance(command, list | tuple) else []


def digest(value: object) -> str:
    """First digits of the sha256 of a value's text."""
    return hashlib.sha256(str(value).encode(errors="replace")).hexdigest()[:16]


def _counters() -> dict[str, int]:
    found: dict[str, int] = {}
    counter = getattr(sys.modules.get("vllm.compilation.counter"), "compilation_counter", None)
    if counter is not None:
        found |= {name: value for name, value in vars(counter).items() if isinstance(value, int)}
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    for group, names in _TORCH_COUNTERS.items():
        for name in names:
            value = counters[group].get(name, 0) if group in counters else 0
            if value:
                found[name] = int(value)
    return found


def _factors() -> dict[str, dict[str, str]]:
    """Factors outside of vLLM's configuration, by group: environment as vLLM's key takes it, versions, paths."""
    vllm, torch = sys.modules.get("vllm.envs"), sys.modules.get("torch")
    found = {
        "variables": {k: digest(v) for k, v in os.environ.items() if _counts(k)},
        "paths": {
            "python": sys.executable,
            "site-packages": str(Path(getattr(sys.modules.get("vllm"), "__file__", "") or "").parent.parent),
            **{name: os.environ.get(name, "") for name in _CACHES},
        },
        "versions": {"python": platform.python_version(), "glibc": platform.libc_ver()[1]},
        "device": {"machine": platform.machine()},
    }
    if torch is not None and hasattr(torch, "__version__"):
        found["versions"]["torch"] = str(torch.__version__)
        found["versions"]["cuda"] = str(getattr(torch.version, "cuda", None))
    for name in ("vllm", "triton"):
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found["versions"][name] = str(version)
    if vllm is not None and hasattr(vllm, "compile_factors"):
        found["key"] = {name: digest(value) for name, value in vllm.compile_factors().items()}
    return found


def _counts(name: str) -> bool:
    return name.startswith(
        ("VLLM_", "TORCH", "TRITON_", "CUDA_", "NVIDIA_", "OMP_", "DG_JIT_", "FLASHINFER_", "LMI_BOOT_")
    )


_settled: list[bool] = []


def settle_instruction_set() -> None:
    """With LMI_BOOT_SETTLE_ISA=1, let torch find the instruction sets of the CPU before vLLM loads kernels in threads.

    torch 2.13 changes the compiler's flags of an instruction set while it tries them (VecAVX512.__bool__ in
    torch/_inductor/cpu_vec_isa.py). Several threads at once leave flags such as `-mavx512bf16` twice or three times,
    which give the same kernel another name: it is compiled again.
    """
    if _settled or os.environ.get("LMI_BOOT_SETTLE_ISA") != "1":
        return
    _settled.append(True)
    importlib.import_module("torch._inductor.cpu_vec_isa").valid_vec_isa_list()


_CONFIGS: dict[str, dict[str, str]] = {}
"""Factors of each class of vLLM's configuration, by `config.<class>`, as its key was computed."""


def observe_configs() -> None:
    """Record the factors that vLLM hashes for its configuration, at the very call that makes the key of its cache."""
    utils = sys.modules.get("vllm.config.utils")
    hashed: Callable[[dict[str, object]], str] | None = getattr(utils, "hash_factors", None)
    if utils is None or hashed is None or getattr(hashed, "observed", False):
        return

    def observing(items: dict[str, object]) -> str:
        settle_instruction_set()
        owner = sys._getframe(1).f_locals.get("self")
        if owner is not None and type(owner).__name__.endswith("Config"):
            _CONFIGS[f"config.{type(owner).__name__}"] = {name: digest(value) for name, value in items.items()}
        return hashed(items)

    observing.observed = True  # type: ignore[attr-defined]  # marks the wrapper, which must not wrap itself
    utils.hash_factors = observing  # type: ignore[attr-defined]  # a module is no typed object
