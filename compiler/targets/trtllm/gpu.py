"""The GPUs of this machine, as NVIDIA's driver lists them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

_QUERY = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
QUERY = " ".join(_QUERY)
"""For a shell; `parse` reads what it prints."""


@dataclass(frozen=True)
class Gpu:
    """`capability`: "9.0"."""

    name: str
    driver: str
    capability: str


def gpus() -> tuple[Gpu, ...]:
    """None where no driver answers."""
    try:
        asked = subprocess.run(_QUERY, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse(asked.stdout)


def parse(text: str) -> tuple[Gpu, ...]:
    """The GPUs in the lines `name, driver, capability`; other lines are passed over."""
    fields = [[part.strip() for part in line.split(",")] for line in text.splitlines()]
    return tuple(Gpu(*line) for line in fields if len(line) == 3)
