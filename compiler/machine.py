"""Properties of this machine: instruction set, GPUs, Neuron devices, memory, disk, installed toolchains.

No other module queries the machine. Takes milliseconds (`read_bandwidth`: half a second); needs no torch
(`cuda_capability` imports it) and no network.

CPU levels are those of the x86-64 psABI (System V ABI, AMD64 supplement, "Micro-Architecture Levels"); features are
spelled as Linux spells them in /proc/cpuinfo.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LEVELS: dict[str, frozenset[str]] = {
    "x86-64": frozenset({"cmov", "cx8", "fpu", "fxsr", "mmx", "sse", "sse2"}),
    "x86-64-v2": frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}),
    "x86-64-v3": frozenset({"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}),
    "x86-64-v4": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
}
"""Features that each level adds to the level before it."""


@cache
def features() -> frozenset[str]:
    """Feature flags of this CPU, in Linux's spelling; empty without /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def isa() -> str:
    """Highest level that this CPU supports ("x86-64-v3"); on other architectures their name ("aarch64")."""
    machine = platform.machine()
    return level_of(features()) if machine in ("x86_64", "AMD64") else machine


def level_of(flags: frozenset[str]) -> str:
    """Highest level whose features, and those of the levels below it, are all in `flags`."""
    reached = "x86-64"
    for level, needed in LEVELS.items():
        if not needed <= flags:
            break
        reached = level
    return reached


_INSTRUCTION_SETS = (
    "adx aes amx avx bmi clflushopt clwb f16c fma gfni movbe movdir pclmul popcnt rdseed sha_ni sse ssse vaes vpclmul"
)
"""Prefixes of the /proc/cpuinfo flags that are instruction sets; the others are system features."""


def beyond(level: str, flags: frozenset[str]) -> tuple[str, ...]:
    """Instruction sets in `flags` beyond `level`, sorted: those that `-march=native` may use."""
    promised = _all_of(level)
    return tuple(sorted(f for f in flags - promised if f.startswith(tuple(_INSTRUCTION_SETS.split()))))


def missing_for(wanted: str, flags: frozenset[str] | None = None) -> tuple[str, ...] | None:
    """Features that code for `wanted` needs and this CPU lacks, sorted; None for an unknown level.

    `flags` replaces this CPU's in tests.
    """
    if wanted == platform.machine():
        return ()
    if wanted not in LEVELS:
        return None
    return tuple(sorted(_all_of(wanted) - (features() if flags is None else flags)))


def _all_of(level: str) -> frozenset[str]:
    levels = list(LEVELS)
    return frozenset[str]().union(*(LEVELS[name] for name in levels[: levels.index(level) + 1]))


DISTRIBUTIONS = ("torch", "tensorrt_llm", "tensorrt", "neuronx-cc", "transformers-neuronx", "vllm", "transformers")
"""Toolchains and runtimes, by their names in manifests and package indexes."""

_QUERY = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader,nounits"]
GPU_QUERY = " ".join(_QUERY)
"""Shell command that lists the GPUs; `parse_gpus` reads its output."""
_TIMEOUT = 20.0
"""Seconds; a driver that is not loaded yet takes several on a machine with eight GPUs."""


@dataclass(frozen=True)
class Gpu:
    """One CUDA device. `capability`: "9.0"; `memory` in bytes."""

    name: str
    capability: str
    memory: int


@dataclass(frozen=True)
class Host:
    """Hardware and software of a machine.

    `packages`: installed versions of DISTRIBUTIONS. `driver`: version of NVIDIA's driver, None without one.
    `memory` available to a process and `disk` free at the artifact's folder, in bytes. `bandwidth`: `read_bandwidth`,
    None where it was not measured.
    """

    isa: str
    features: frozenset[str]
    packages: Mapping[str, str]
    gpus: tuple[Gpu, ...]
    driver: str | None
    memory: int
    disk: int
    bandwidth: float | None = None


def this_host(folder: Path) -> Host:
    """Properties of this machine. `folder`: the artifact's; it need not exist yet. Raises nothing."""
    found, driver = gpus()
    return Host(
        isa(),
        features(),
        {name: version for name in DISTRIBUTIONS if (version := installed(name)) is not None},
        _visible(found, os.environ.get("CUDA_VISIBLE_DEVICES")),
        driver,
        available_memory(),
        free_disk(folder),
        None if found else read_bandwidth(),
    )


def host() -> str:
    """Name of this machine and, after a `/`, its boot: containers on one machine have that in common."""
    lines = _lines("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{lines[0].strip() if lines else ''}"


def is_this_host(other: str) -> bool:
    """Whether `other`, from `host`, is this machine."""
    name, _, boot = other.partition("/")
    own_name, _, own_boot = host().partition("/")
    return boot == own_boot if boot and own_boot else name == own_name


def cuda_capability() -> str | None:
    """Compute capability of torch's current CUDA device ("9.0"), None without one. Imports torch."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def available_memory() -> int:
    """Bytes available to a new process: the system's, or the rest of the control group's limit where that is less."""
    known = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdecimal():
        cached = sum(int(line.split()[1]) for line in _lines("/sys/fs/cgroup/memory.stat") if line.startswith("file "))
        known.append(max(int(limit[0]) - int(used[0]) + cached, 0))
    return min(known, default=0)


class MemoryPeak:
    """Peak of the resident memory since `restart`, files that are mapped included, in bytes."""

    def __init__(self) -> None:
        self._children = 0

    def restart(self) -> None:
        """Forget the peak. Where /proc does not allow it, the next ones are of the whole process."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
        self._children = _largest_child()

    def read(self) -> dict[str, int]:
        """{"peak_memory": of this process, "peak_memory_child": of the largest child that ended, if larger than earlier
        ones}.
        """
        found = [int(line.split()[1]) * 1024 for line in _lines("/proc/self/status") if line.startswith("VmHWM:")]
        child = _largest_child()
        return {
            **({"peak_memory": found[0]} if found else {}),
            **({"peak_memory_child": child} if child > self._children else {}),
        }


def _largest_child() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


_READ = 1 << 28
"""Bytes that `read_bandwidth` reads at a time: more than the caches of a CPU hold."""


def read_bandwidth() -> float:
    """Bytes a second that all cores together read from memory now: the best of five passes over 256 MiB."""
    import numpy as np

    cores = len(os.sched_getaffinity(0))
    parts, best = np.array_split(np.ones(_READ // 8, np.uint64), cores), float("inf")
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(5):
            begun = time.perf_counter()
            list(pool.map(np.ndarray.max, parts))
            best = min(best, time.perf_counter() - begun)
    return _READ / best


def free_disk(folder: Path) -> int:
    """Bytes free on the disk of `folder`, which need not exist yet."""
    absolute = folder.absolute()
    return shutil.disk_usage(next(place for place in (absolute, *absolute.parents) if place.exists())).free


def parse_gpus(text: str) -> tuple[tuple[Gpu, ...], str | None]:
    """GPUs and the driver's version from lines `name, capability, MiB, driver`; other lines are ignored."""
    found, driver = [], None
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and re.fullmatch(r"\d+\.\d+", fields[1]):
            memory = int(fields[2]) << 20 if fields[2].isdecimal() else 0
            found.append(Gpu(fields[0], fields[1], memory))
            driver = fields[3]
    return tuple(found), driver


def gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """All GPUs and the version of NVIDIA's driver; () and None without a driver."""
    try:
        asked = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return (), None
    return parse_gpus(asked.stdout)


def _visible(gpus: tuple[Gpu, ...], wanted: str | None) -> tuple[Gpu, ...]:
    """GPUs that CUDA_VISIBLE_DEVICES selects: indices up to the first that does not exist; UUIDs are only counted."""
    if wanted is None:
        return gpus
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if not all(name.lstrip("-").isdecimal() for name in names):
        return gpus[: len(names)]
    left = []
    for name in names:
        if not name.isdecimal() or int(name) >= len(gpus):
            break
        left.append(gpus[int(name)])
    return tuple(left)


def first_line(argv: list[str]) -> str | None:
    """The first line that a command prints; None where it fails, prints nothing or is not there."""
    try:
        run = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.splitlines()[0].strip() if run.stdout.strip() else None


def installed(name: str) -> str | None:
    """Installed version of a distribution, None without one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def extra_command(extra: str) -> str:
    """Command that installs an extra of this project: from the package index, or from the checkout that this is."""
    checkout = (Path(__file__).parents[1] / "pyproject.toml").is_file()
    return f"pip install -e '.[{extra}]'" if checkout else f"pip install 'lmi-compile[{extra}]'"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
