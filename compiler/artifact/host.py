"""What the machine under us has, asked in milliseconds: no torch, no network. For `preflight`."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.artifact.isa import features, isa

if TYPE_CHECKING:
    from collections.abc import Mapping

DISTRIBUTIONS = ("torch", "tensorrt_llm", "tensorrt", "neuronx-cc", "transformers-neuronx", "vllm", "transformers")
"""Toolchains and runtimes by the names that manifests and package indexes give them."""

_QUERY = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader,nounits"]
_TIMEOUT = 20.0
"""Seconds: a driver that has to start first takes some on a machine with eight GPUs."""


@dataclass(frozen=True)
class Gpu:
    """`capability`: "9.0"; `memory` in bytes."""

    name: str
    capability: str
    memory: int


@dataclass(frozen=True)
class Host:
    """`packages`: installed versions of DISTRIBUTIONS. `driver`: NVIDIA's; None where none answers. `memory` that a
    process can have, and `disk` that is free where the artifact goes, in bytes. `neuron`: Neuron devices (chips).
    """

    isa: str
    features: frozenset[str]
    packages: Mapping[str, str]
    gpus: tuple[Gpu, ...]
    driver: str | None
    neuron: int
    memory: int
    disk: int


def this_host(folder: Path) -> Host:
    """`folder`: where the artifact is, or will be; it need not exist yet. Raises nothing."""
    found, driver = _gpus()
    return Host(
        isa(),
        features(),
        {name: version for name in DISTRIBUTIONS if (version := _installed(name)) is not None},
        _visible(found, os.environ.get("CUDA_VISIBLE_DEVICES")),
        driver,
        len([device for device in Path("/dev").glob("neuron*") if re.fullmatch(r"neuron\d+", device.name)]),
        available_memory(),
        free_disk(folder),
    )


def available_memory() -> int:
    """Bytes: what the system has for a new process, or what is left of the control group's limit where that is less."""
    known = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdecimal():
        cached = sum(int(line.split()[1]) for line in _lines("/sys/fs/cgroup/memory.stat") if line.startswith("file "))
        known.append(max(int(limit[0]) - int(used[0]) + cached, 0))
    return min(known, default=0)


def free_disk(folder: Path) -> int:
    """Bytes free on the disk that `folder` is, or will be, on."""
    absolute = folder.absolute()
    return shutil.disk_usage(next(place for place in (absolute, *absolute.parents) if place.exists())).free


def parse_gpus(text: str) -> tuple[tuple[Gpu, ...], str | None]:
    """GPUs and the driver's version, of lines `name, capability, MiB, driver`; other lines are passed over."""
    found, driver = [], None
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and re.fullmatch(r"\d+\.\d+", fields[1]):
            memory = int(fields[2]) << 20 if fields[2].isdecimal() else 0
            found.append(Gpu(fields[0], fields[1], memory))
            driver = fields[3]
    return tuple(found), driver


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    try:
        asked = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return (), None
    return parse_gpus(asked.stdout)


def _visible(gpus: tuple[Gpu, ...], wanted: str | None) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves: indices end at the first that does not exist; names (UUIDs) are only
    counted.
    """
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


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
