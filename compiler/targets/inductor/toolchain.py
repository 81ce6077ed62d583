"""Compilers on this machine: their versions, and the CPUs that they can compile for."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

from compiler.errors import CompileError, ToolchainMissing
from compiler.machine import LEVELS, isa, missing_for


def versions(device: str) -> dict[str, str]:
    """Exact versions of all tools that affect the bytes of a package. Does not import torch for the CPU.

    Raises:
        ToolchainMissing: no torch, no g++, or (for cuda) no GPU that torch can use.
    """
    compiler = cxx()
    try:
        found = {"torch": version("torch")}
    except PackageNotFoundError:
        raise ToolchainMissing(
            "target `inductor` needs torch 2.11 or newer; found none", hint="pip install torch"
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
            f"target `inductor` needs a C++ compiler; `{wanted}` is not on PATH",
            hint="install g++ (Debian: `apt-get install g++`; Amazon Linux: `dnf install gcc-c++`), or set CXX; "
            "running an artifact does not need it",
        )
    return path


def archiver() -> str:
    """Path of binutils' `ar` that belongs to the compiler."""
    return _first_line([cxx(), "-print-prog-name=ar"])


def check_march(march: str, device: str) -> None:
    """Check that torch writes vector code for `march` on this CPU. Raises CompileError."""
    if device != "cpu" or march == "native" or not on_x86():
        return
    lacking = missing_for(march)
    if lacking is None:
        raise CompileError(
            f"`--march` takes native or a level of x86-64; found `{march}`", hint=f"levels: {', '.join(LEVELS)}"
        )
    if lacking:
        # torch, not g++, checks this CPU before it writes vector code.
        raise CompileError(
            f"torch compiles {march} only on a CPU that runs it; this one is {isa()} and lacks {', '.join(lacking)}",
            hint=f"build on a machine with {march}, or with `--march {isa()}`",
        )


def on_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _first_line(argv: list[str]) -> str:
    try:
        run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainMissing(f"`{shlex.join(argv)}` fails: {error}", hint="reinstall g++ (with binutils)") from error
    return (run.stdout.splitlines() or [""])[0].strip()


def _cuda_versions() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        raise ToolchainMissing(
            "`--device cuda` compiles on a GPU of the kind that will run the package; torch finds none here",
            hint="build on a machine with the GPU and a CUDA build of torch, or with `--device cpu`",
        )
    major, minor = torch.cuda.get_device_capability()
    return {"cuda": str(torch.version.cuda), "capability": f"{major}.{minor}", "triton": version("triton")}
