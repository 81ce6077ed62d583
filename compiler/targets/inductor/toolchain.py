"""Which compilers are here, in which versions, and for which CPUs they can compile."""

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
            hint="install g++ (Debian: `apt-get install g++`; Amazon Linux: `dnf install gcc-c++`), or set CXX; "
            "running an artifact does not need it",
        )
    return path


def archiver() -> str:
    """Path of binutils' `ar`, which comes with the compiler."""
    return _first_line([cxx(), "-print-prog-name=ar"])


def check_march(march: str, device: str) -> None:
    """Raises CompileError where torch would not write vector code for `march` on this CPU."""
    if device != "cpu" or march == "native" or not on_x86():
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


def on_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


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
