"""Checks before anything of an artifact is loaded: does it fit this machine, and are its files complete?

The loader of compiled packages checks nothing itself: the wrong torch crashes, the wrong CPU ends in SIGILL.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from compiler.artifact.archive import check_contained
from compiler.artifact.manifest import MANIFEST
from compiler.errors import ArtifactError, IncompatibleError
from compiler.machine import cuda_capability, features, installed, isa, missing_for
from compiler.storage.files.crc import crc_file
from compiler.storage.files.digest import sha256_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compiler.artifact.manifest import Device, Manifest
    from compiler.storage.files.digest import Digest

Evidence: TypeAlias = Literal["size", "crc", "sha256"]
"""Evidence by which a file is checked."""


@dataclass(frozen=True)
class Machine:
    """This machine. `torch`: version, None if not installed. `capability`: of the CUDA device, if any."""

    torch: str | None
    isa: str
    features: frozenset[str]
    capability: str | None = None


def this_machine(*, cuda: bool = False) -> Machine:
    """Describe this machine; imports torch only for `cuda`, to ask for the GPU."""
    version = installed("torch")
    return Machine(version, isa(), features(), cuda_capability() if cuda and version else None)


def check_machine(manifest: Manifest, machine: Machine | None = None) -> None:
    """Check that this machine can run the artifact: torch, instruction set, GPU. Raises IncompatibleError."""
    machine = machine or this_machine(cuda=manifest.device.kind == "cuda")
    built, found = manifest.toolchain.get("torch"), machine.torch
    if built is not None and (found is None or _minor(found) != _minor(built)):
        raise IncompatibleError(
            f"`{manifest.name}` was built with torch {built}; this machine has {found or 'no torch'}",
            hint=f"install torch {_minor(built)} (`pip install 'torch=={_minor(built)}.*'`), "
            "or build the artifact again with the torch of this machine",
        )
    if manifest.device.kind == "cuda":
        _check_capability(manifest, machine.capability)
    else:
        _check_isa(manifest.name, manifest.device, machine)


def check_files(
    manifest: Manifest,
    folder: Path,
    *,
    by: Evidence = "size",
    digest: Callable[[Path], Digest] = sha256_file,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Check the files of an artifact: presence, containment (archive.py), size, content. Raises ArtifactError with all
    problems.

    `by`: "size" reads only the directories of archives; "crc" detects damage; "sha256" detects tampering too, if the
    manifest is trusted. `digest` computes the sha256 of a file; `progress(bytes, total)` is called after each one.
    """
    problems, done, total = [], 0, sum(file.size for file in manifest.files)
    for file in manifest.files:
        path = folder / file.path
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            problems.append(f"{file.path}: missing, expected {file.size} bytes")
            continue
        if not stat.S_ISREG(found.st_mode):
            problems.append(f"{file.path}: expected a file, found a folder or a special file")
        elif found.st_size != file.size:
            problems.append(f"{file.path}: expected {file.size} bytes, found {found.st_size}")
        elif by != "size":
            # Manifests of earlier versions have no CRCs.
            expected = file.crc if by == "crc" and file.crc else file.digest
            actual = crc_file(path) if expected == file.crc else digest(path)
            if actual != expected:
                problems.append(f"{file.path}: expected {expected}, found {actual}")
            done += file.size
            if progress is not None:
                progress(done, total)
    if problems:
        raise ArtifactError(
            "\n".join([f"{len(problems)} damaged file(s) in {folder}:", *(f"  {p}" for p in problems)]),
            hint="copy the artifact again from where it was built, or build it again",
        )
    check_contained(folder, [MANIFEST, *(file.path for file in manifest.files)])


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


def _check_isa(name: str, device: Device, machine: Machine) -> None:
    if device.isa is None:
        return
    lacking = missing_for(device.isa, machine.features)
    if lacking is None or (device.isa != machine.isa and not device.isa.startswith("x86-64")):
        lost = f"`{device.isa}`"
    else:
        missing = sorted({*lacking, *(set(device.features) - machine.features)})
        lost = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
    if lost:
        beyond = f" with {', '.join(device.features)}" if device.features else ""
        raise IncompatibleError(
            f"`{name}` was compiled for {device.isa}{beyond}; this CPU is {machine.isa} and lacks {lost}",
            hint="build it again with `--march x86-64-v3` (any server CPU since 2013), or on this machine",
        )


def _check_capability(manifest: Manifest, found: str | None) -> None:
    wanted = manifest.device.capability
    if found is None:
        raise IncompatibleError(
            f"`{manifest.name}` was compiled for a GPU of compute capability {wanted}; this machine has no GPU",
            hint="run it on a machine with such a GPU, or build it with `--device cpu`",
        )
    if found != wanted:
        raise IncompatibleError(
            f"`{manifest.name}` was compiled for compute capability {wanted}; the GPU here has {found}",
            hint="build it again on a machine with the GPU that will run it",
        )
