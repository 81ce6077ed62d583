"""Diagnosis of this machine: what it can build and run, and what is missing. Read-only; never shows a secret."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from compiler.machine import available_memory, free_disk, isa, read_bandwidth
from compiler.report import amount
from compiler.targets import available, load
from compiler.targets.values import Ability, Finding


@dataclass(frozen=True)
class Diagnosis:
    findings: tuple[Finding, ...]
    abilities: tuple[Ability, ...]


def doctor(cache: Path) -> Diagnosis:
    """Examine Python, every target's toolchain, hardware, disk space and credentials. `cache`: folder of the cache."""
    found = [load(name).runtime.doctor() for name in available()]
    return Diagnosis(
        (
            Finding("python", "ok", f"{platform.python_version()} ({sys.executable})"),
            Finding("cpu", "ok", f"{isa()}, {len(os.sched_getaffinity(0))} cores"),
            *(finding for findings, _ in found for finding in findings),
            Finding("memory", "ok", _memory()),
            _disk("cache", cache),
            _credential("Hugging Face token", _has_hf_token(), "set HF_TOKEN or run `hf auth login`"),
            _credential("AWS credentials", _has_aws(), "run `aws configure`, or set AWS_PROFILE"),
        ),
        tuple(ability for _, abilities in found for ability in abilities),
    )


def _memory() -> str:
    read = amount(round(read_bandwidth()), "bytes")
    return f"{amount(available_memory(), 'bytes')} available; all cores read {read}/s of it"


def _disk(subject: str, folder: Path) -> Finding:
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    free = free_disk(folder)
    return Finding(subject, "ok", f"{folder}: {amount(used, 'bytes')} used, {amount(free, 'bytes')} free on its disk")


def _credential(subject: str, found: bool, remedy: str) -> Finding:
    return Finding(subject, "ok" if found else "note", "found" if found else "none", "" if found else remedy)


def _has_hf_token() -> bool:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    return bool(os.environ.get("HF_TOKEN")) or file.is_file()


def _has_aws() -> bool:
    """Whether variables or files of AWS exist; boto3 would also use the network."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
             "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")  # fmt: skip
    return any(os.environ.get(name) for name in names) or (Path.home() / ".aws/credentials").is_file()
