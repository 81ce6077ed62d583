"""What this machine can build and run, and what stands in the way. Looks; changes nothing; never shows a
secret.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from compiler.machine import available_memory, free_disk, installed, isa
from compiler.report import amount

LEAST_TORCH = (2, 11)
LEAST_CXX = 11
"""Of g++: the first that knows all the instruction sets that `targets/inductor/native` asks the CPU for."""
NEURON_INDEX = "https://pip.repos.neuron.amazonaws.com"


@dataclass(frozen=True)
class Finding:
    """One line. `state`: "ok", "missing" or "note"; `remedy`: what to do where something is missing."""

    subject: str
    state: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Ability:
    """Whether `target` can be built (`compiles`) and run (`runs`) here; `why` where not."""

    target: str
    compiles: bool
    runs: bool
    why: str = ""


@dataclass(frozen=True)
class Diagnosis:
    findings: tuple[Finding, ...]
    abilities: tuple[Ability, ...]


def doctor(cache: Path) -> Diagnosis:
    """Look at Python, toolchains, hardware, space and credentials. `cache`: the stage cache's folder."""
    torch, compiler, gpu = _torch(), _compiler(), _gpu()
    trt, neuron = _package("tensorrt_llm", _TRT), _package("neuronx-cc", _NEURON)
    lacking = [f.subject for f in (torch, compiler) if f.state != "ok"]
    return Diagnosis(
        (
            Finding("python", "ok", f"{platform.python_version()} ({sys.executable})"),
            torch,
            compiler,
            Finding("cpu", "ok", f"{isa()}, {len(os.sched_getaffinity(0))} cores"),
            gpu,
            trt,
            neuron,
            Finding("memory", "ok", f"{amount(available_memory(), 'bytes')} available"),
            _disk("cache", cache),
            _credential("Hugging Face token", _has_hf_token(), "set HF_TOKEN or run `hf auth login`"),
            _credential("AWS credentials", _has_aws(), "run `aws configure`, or set AWS_PROFILE"),
        ),
        (
            Ability("inductor (cpu)", not lacking, torch.state == "ok", _needs(lacking)),
            Ability(
                "inductor (cuda)",
                not lacking and gpu.state == "ok",
                torch.state == "ok" and gpu.state == "ok",
                _needs(lacking + (["cuda"] if gpu.state != "ok" else [])),
            ),
            Ability("trtllm (checkpoint)", compiles=torch.state == "ok", runs=False, why=_CONTAINER),
            _engines(),
        ),
    )


_TRT = "in the vendor's image, or `pip install tensorrt_llm --extra-index-url https://pypi.nvidia.com` on a GPU machine"
_CONTAINER = "served by an LMI container"
_NEURON = f"`pip install neuronx-cc --extra-index-url {NEURON_INDEX}` on an x86-64 Linux machine"


def _engines() -> Ability:
    """Engines are built by a command, wherever it comes from, and run nowhere but in a container."""
    here = shutil.which("trtllm-build") is not None
    return Ability("trtllm (engines)", compiles=here, runs=False, why=_CONTAINER if here else "needs trtllm-build")


def _needs(subjects: list[str]) -> str:
    return f"needs {', '.join(subjects)}" if subjects else ""


def _torch() -> Finding:
    found = installed("torch")
    remedy = "`pip install 'torch>=2.13,<2.14'`"
    if found is None:
        return Finding("torch", "missing", "not installed", remedy)
    numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2])
    if numbers < LEAST_TORCH:
        return Finding("torch", "missing", f"{found}, expected 2.11 or newer", remedy)
    return Finding("torch", "ok", found)


def _compiler() -> Finding:
    wanted = os.environ.get("CXX", "g++")
    path = shutil.which(wanted)
    line = _first_line([path, "--version"]) if path else None
    remedy = "`apt-get install g++` or `dnf install gcc-c++`, or set CXX; running an artifact does not need it"
    if path is None or line is None:
        return Finding("g++", "missing", f"`{wanted}` is not on PATH or does not run", remedy)
    number = (_first_line([path, "-dumpversion"]) or "").partition(".")[0]
    if number.isdecimal() and int(number) < LEAST_CXX:
        return Finding("g++", "missing", f"{line}, expected {LEAST_CXX} or newer", remedy)
    return Finding("g++", "ok", line)


def _gpu() -> Finding:
    """Asks the driver first: torch, which takes a second to import, only where there is a GPU."""
    driver = _first_line(["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"])
    if driver is None:
        return Finding(
            "cuda", "missing", "no NVIDIA driver answers", "a machine with an NVIDIA GPU, for `--device cuda`"
        )
    try:
        import torch
    except ImportError:
        return Finding("cuda", "missing", f"{driver}; torch is not installed", "install a CUDA build of torch")
    if not torch.cuda.is_available():
        remedy = "`pip install torch --index-url https://download.pytorch.org/whl/cu128`"
        return Finding("cuda", "missing", f"{driver}; torch {torch.__version__} cannot use it", remedy)
    return Finding("cuda", "ok", f"{torch.cuda.device_count()} x {driver}")


def _package(name: str, remedy: str) -> Finding:
    found = installed(name)
    if found is None:
        return Finding(name, "missing", "not installed", remedy)
    return Finding(name, "ok", found)


def _disk(subject: str, folder: Path) -> Finding:
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    free = free_disk(folder)
    return Finding(subject, "ok", f"{folder}: {amount(used, 'bytes')} used, {amount(free, 'bytes')} free on its disk")


def _credential(subject: str, here: bool, remedy: str) -> Finding:
    return Finding(subject, "ok" if here else "note", "found" if here else "none", "" if here else remedy)


def _has_hf_token() -> bool:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    return bool(os.environ.get("HF_TOKEN")) or file.is_file()


def _has_aws() -> bool:
    """By names of variables and files only: boto3 would look at the network too."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
             "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")  # fmt: skip
    return any(os.environ.get(name) for name in names) or (Path.home() / ".aws/credentials").is_file()


def _first_line(argv: list[str]) -> str | None:
    try:
        run = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.splitlines()[0].strip() if run.stdout.strip() else None
