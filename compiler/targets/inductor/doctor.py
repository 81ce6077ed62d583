"""Toolchain of target `inductor` on this machine: torch, a C++ compiler, a GPU that torch can use."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from compiler.errors import UsageError
from compiler.machine import first_line, installed
from compiler.runtime import levels
from compiler.targets.values import Ability, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_TORCH = (2, 11)
LEAST_CXX = 11
"""First version of g++ with all instruction sets of the native kernels."""
INSTALL_TORCH = "pip install 'torch>=2.13,<2.14'"
INSTALL_CUDA = "pip install torch --index-url https://download.pytorch.org/whl/cu128"
NO_DRIVER = "no NVIDIA driver answers"


def doctor() -> tuple[Sequence[Finding], Sequence[Ability]]:
    """Findings about the toolchain, and abilities for CPU and GPU."""
    torch, compiler, gpu = _torch(), _compiler(), _gpu()
    kernels = _kernels()
    found = torch, compiler, kernels, gpu
    lacking = [f.subject for f in (torch, compiler) if f.state != "ok"]
    on_cpu = lacking + ([] if kernels.state == "ok" else ["kernels"])
    on_gpu = lacking + ([] if gpu.state == "ok" else ["cuda"])
    runs, cuda = torch.state == "ok", gpu.state == "ok"
    driver = gpu.text != NO_DRIVER
    return found, (
        Ability("inductor (cpu)", not on_cpu, runs and kernels.state == "ok", _needs(on_cpu), _mend(on_cpu)),
        Ability("inductor (cuda)", not on_gpu, runs and cuda, _needs(on_gpu), _mend(on_gpu) if driver else ""),
    )


def _needs(subjects: list[str]) -> str:
    return f"needs {', '.join(subjects)}" if subjects else ""


def _mend(subjects: list[str]) -> str:
    """One command that installs what is missing."""
    compiler = "dnf install -y gcc-c++" if shutil.which("dnf") else "apt-get install -y g++"
    commands = {"torch": INSTALL_TORCH, "g++": compiler, "kernels": f"unset {levels.VARIABLE}", "cuda": INSTALL_CUDA}
    wanted = [name for name in subjects if name != "torch" or "cuda" not in subjects]
    return " && ".join(commands[name] for name in wanted)


def _torch() -> Finding:
    found = installed("torch")
    remedy = f"`{INSTALL_TORCH}`"
    if found is None:
        return Finding("torch", "missing", "not installed", remedy)
    numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2])
    if numbers < LEAST_TORCH:
        return Finding("torch", "missing", f"{found}, expected 2.11 or newer", remedy)
    return Finding("torch", "ok", found)


def _compiler() -> Finding:
    wanted = os.environ.get("CXX", "g++")
    path = shutil.which(wanted)
    line = first_line([path, "--version"]) if path else None
    remedy = "`apt-get install g++` or `dnf install gcc-c++`, or set CXX; running an artifact does not need it"
    if path is None or line is None:
        return Finding("g++", "missing", f"`{wanted}` is not on PATH or does not run", remedy)
    number = (first_line([path, "-dumpversion"]) or "").partition(".")[0]
    if number.isdecimal() and int(number) < LEAST_CXX:
        return Finding("g++", "missing", f"{line}, expected {LEAST_CXX} or newer", remedy)
    return Finding("g++", "ok", line)


def _kernels() -> Finding:
    runs = levels.supported()
    try:
        asked = levels.level()
    except UsageError as error:
        return Finding("kernels", "missing", error.message, error.hint)
    return Finding("kernels", "ok", f"level {asked}; this CPU runs {', '.join(runs)} ({levels.VARIABLE} selects one)")


def _gpu() -> Finding:
    """Query the driver first, and import torch, which takes a second, only if there is a GPU."""
    driver = first_line(["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"])
    if driver is None:
        return Finding("cuda", "missing", NO_DRIVER, "use a machine with an NVIDIA GPU for `--device cuda`")
    try:
        import torch
    except ImportError:
        return Finding("cuda", "missing", f"{driver}; torch is not installed", "install a CUDA build of torch")
    if not torch.cuda.is_available():
        return Finding("cuda", "missing", f"{driver}; torch {torch.__version__} cannot use it", f"`{INSTALL_CUDA}`")
    return Finding("cuda", "ok", f"{torch.cuda.device_count()} x {driver}")
