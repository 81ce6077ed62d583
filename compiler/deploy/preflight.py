"""Comparison of an artifact's manifest with a machine, before any weights are transferred.

    target      the target's findings: toolchain versions, instruction set, devices of its own kind
    hardware    number, compute capability and memory of GPUs; their driver
    room        memory for the weights, disk for the missing files

Takes half a second, most of it to measure how fast a CPU reads memory, and imports no torch. All mismatches are
reported together, each with its remedy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from compiler.errors import IncompatibleError, ResourceError
from compiler.lmi.amis import LEAST_DRIVER
from compiler.lmi.instances import fitting
from compiler.machine import this_host
from compiler.report import amount
from compiler.storage.files.digest import SAFETENSORS
from compiler.targets import load
from compiler.targets.values import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from compiler.artifact.manifest import Manifest
    from compiler.machine import Host


def preflight(manifest: Manifest, folder: Path, host: Host | None = None) -> tuple[Finding, ...]:
    """Findings: the target's, then hardware, then disk. `folder`: where the artifact is or will be."""
    host = host or this_host(folder)
    hardware = _HARDWARE.get(manifest.device.kind, _unknown)
    own = load(manifest.target).runtime.findings(manifest, host)
    return (*own, *hardware(manifest, host), *_disk(manifest, folder, host))


def refuse(name: str, findings: tuple[Finding, ...]) -> None:
    """Raise IncompatibleError with every mismatch, or ResourceError if only memory or disk is lacking."""
    wrong = [finding for finding in findings if finding.state == "mismatch"]
    if not wrong:
        return
    kind = ResourceError if all(finding.kind == "room" for finding in wrong) else IncompatibleError
    raise kind(
        "\n".join([f"this machine cannot run `{name}`:", *(f"  {f.subject}: {f.text}" for f in wrong)]),
        hint="\n      ".join(dict.fromkeys(finding.remedy for finding in wrong if finding.remedy)),
    )


def _unknown(_manifest: Manifest, _host: Host) -> Iterator[Finding]:
    """No findings: the target itself checks devices of its own kind."""
    yield from ()


def _gpus(manifest: Manifest, host: Host) -> Iterator[Finding]:
    count, need, wanted = ranks(manifest), rank_bytes(manifest), manifest.device.capability
    suited = [gpu for gpu in host.gpus if wanted in (None, gpu.capability)]
    large = [gpu for gpu in suited if gpu.memory >= need]
    names = fitting(wanted, count, need)[:3] if wanted else []
    remedy = f"it fits {', '.join(names)}" if names else "build it again for the GPUs that will run it"
    needs = f"needs {count} x compute capability {wanted}" if wanted else f"needs {count} GPU(s)"
    if not host.gpus:
        yield Finding("gpu", "mismatch", f"{needs}; no NVIDIA driver answers here", remedy)
        return
    here = f"{len(host.gpus)} x {host.gpus[0].name} ({host.gpus[0].capability})"
    if len(suited) < count:
        yield Finding("gpu", "mismatch", f"{needs}; this machine has {here}", remedy)
    elif len(large) < count:
        text = f"needs {amount(need, 'bytes')} on each for the weights; the smallest here has "
        yield Finding("gpu", "mismatch", text + amount(min(gpu.memory for gpu in suited), "bytes"), remedy)
    else:
        yield Finding("gpu", "ok", here)
    yield from _driver(manifest, host)


def _driver(manifest: Manifest, host: Host) -> Iterator[Finding]:
    """Compare the toolchain's `cuda` ("12.5") with the driver ("550.54")."""
    cuda = manifest.toolchain.get("cuda", "").partition(".")[0]
    least = LEAST_DRIVER.get(int(cuda)) if cuda.isdecimal() else None
    driver = (host.driver or "").partition(".")[0]
    if least is None or not driver.isdecimal():
        return
    if int(driver) < least:
        remedy = f"use a machine image with driver {least} or newer (SageMaker: `InferenceAmiVersion`)"
        yield Finding("driver", "mismatch", f"CUDA {cuda} needs driver {least} or newer; {host.driver} here", remedy)
    else:
        yield Finding("driver", "ok", str(host.driver))


def _memory(manifest: Manifest, host: Host) -> Iterator[Finding]:
    need = sum(file.size for file in manifest.files if file.media_type == SAFETENSORS)
    state: Literal["ok", "mismatch"] = "ok" if need <= host.memory else "mismatch"
    text = f"weights of {amount(need, 'bytes')}; {amount(host.memory, 'bytes')} available"
    yield Finding("memory", state, text, "use a machine with more memory, or a smaller dtype", "room")


_HARDWARE: Mapping[str, Callable[[Manifest, Host], Iterator[Finding]]] = {"cpu": _memory, "cuda": _gpus}
"""Checks by kind of device."""


def _disk(manifest: Manifest, folder: Path, host: Host) -> Iterator[Finding]:
    missing = sum(file.size for file in manifest.files if not (folder / file.path).is_file())
    state: Literal["ok", "mismatch"] = "ok" if missing <= host.disk else "mismatch"
    text = f"{amount(missing, 'bytes')} to fetch; {amount(host.disk, 'bytes')} free at {folder}"
    yield Finding("disk", state, text, "free some space, or choose a folder on another disk", "room")


def ranks(manifest: Manifest) -> int:
    """Number of devices that the artifact is split over."""
    return manifest.parallel.tp * manifest.parallel.pp


def rank_bytes(manifest: Manifest) -> int:
    """Size of the largest rank file in bytes."""
    sizes = {file.path: file.size for file in manifest.files}
    return max((sizes[path] for path in manifest.section.rank_files), default=0)
