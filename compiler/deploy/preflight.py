"""Can this machine run that artifact? Asked of its manifest alone, before any of its weights are fetched.

    software    versions of the toolchain that its files are bound to: torch for compiled packages (major.minor),
                TensorRT-LLM and TensorRT for engines (all of it), the Neuron compiler (major.minor)
    hardware    instruction set; GPUs: how many, which compute capability, memory of each; the driver; Neuron devices
    room        memory for the weights; disk for what is not there yet

Takes a tenth of a second and imports no torch. Everything that does not fit is told at once, each with what does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compiler.artifact.check import Machine, check_machine
from compiler.errors import IncompatibleError, LmiCompileError, ResourceError
from compiler.lmi.images import image_for_trtllm
from compiler.lmi.instances import fitting
from compiler.machine import this_host
from compiler.report import amount
from compiler.storage.files.digest import SAFETENSORS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from compiler.artifact.manifest import Manifest
    from compiler.machine import Host

EXACT = {"tensorrt_llm": 3, "tensorrt": 3, "neuronx-cc": 2, "transformers-neuronx": 2, "vllm": 3}
"""How many numbers of a version have to be those of the build. `check_machine` looks after torch."""

LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""The oldest driver (major) that runs a CUDA major. Source: CUDA compatibility guide, minor version compatibility."""


@dataclass(frozen=True)
class Finding:
    """`state`: "ok" or "mismatch". `kind`: what a mismatch makes of it, another machine or more room on this one."""

    subject: str
    state: Literal["ok", "mismatch"]
    text: str
    remedy: str = ""
    kind: Literal["machine", "room"] = "machine"


def preflight(manifest: Manifest, folder: Path, host: Host | None = None) -> tuple[Finding, ...]:
    """What was compared, in the order of the head of this file. `folder`: where the artifact is or will be."""
    host = host or this_host(folder)
    return (*_software(manifest, host), *_hardware(manifest, host), *_room(manifest, folder, host))


def refuse(name: str, findings: tuple[Finding, ...]) -> None:
    """Raises IncompatibleError, or ResourceError where only room is lacking, that lists every mismatch."""
    wrong = [finding for finding in findings if finding.state == "mismatch"]
    if not wrong:
        return
    kind = ResourceError if all(finding.kind == "room" for finding in wrong) else IncompatibleError
    raise kind(
        "\n".join([f"this machine cannot run `{name}`:", *(f"  {f.subject}: {f.text}" for f in wrong)]),
        hint="\n      ".join(dict.fromkeys(finding.remedy for finding in wrong if finding.remedy)),
    )


def _software(manifest: Manifest, host: Host) -> Iterator[Finding]:
    if manifest.segments is not None:
        yield _runtime(manifest, host)
    if manifest.engines is not None and not manifest.engines.files:
        remedy = "run its `build-engines.sh` where TensorRT-LLM is, then `lmi-compile package`"
        yield Finding("engines", "mismatch", "it is a checkpoint whose engines were not built yet", remedy)
    for name, built in sorted(manifest.toolchain.items()):
        if name not in EXACT:
            continue
        found = host.packages.get(name)
        if found is not None and _numbers(found, EXACT[name]) == _numbers(built, EXACT[name]):
            yield Finding(name, "ok", found)
        else:
            remedy = f"run it in {_image(manifest, name, built)}"
            yield Finding(name, "mismatch", f"built with {built}; {found or 'not installed'} here", remedy)


def _runtime(manifest: Manifest, host: Host) -> Finding:
    """What the runtime of this project insists on. A GPU has findings of its own."""
    try:
        check_machine(
            manifest, Machine(host.packages.get("torch"), host.isa, host.features, manifest.device.capability)
        )
    except LmiCompileError as error:
        return Finding("runtime", "mismatch", error.message, error.hint)
    needs = (f"torch {manifest.toolchain.get('torch', 'any')}", manifest.device.isa)
    return Finding("runtime", "ok", f"runs what was built for {', '.join(need for need in needs if need)}")


def _image(manifest: Manifest, name: str, built: str) -> str:
    """The image that has this version of `name`."""
    tag = manifest.engines.image if manifest.engines is not None else None
    if tag is None and name == "tensorrt_llm" and (image := image_for_trtllm(built)) is not None:
        tag = image.tag
    return f"the LMI image {tag}" if tag else f"an image that has {name} {built}"


def _hardware(manifest: Manifest, host: Host) -> Iterator[Finding]:
    if manifest.device.kind != "cuda":
        return
    count, need, wanted = ranks(manifest), rank_bytes(manifest), manifest.device.capability
    suited = [gpu for gpu in host.gpus if wanted in (None, gpu.capability)]
    large = [gpu for gpu in suited if gpu.memory >= need]
    names = fitting(wanted, count, need)[:3] if wanted else []
    remedy = f"it fits {', '.join(names)}" if names else "build it again for the GPUs that will run it"
    asked = f"{count} x compute capability {wanted or 'any'}"
    if not host.gpus:
        yield Finding("gpu", "mismatch", f"needs {asked}; no NVIDIA driver answers here", remedy)
        return
    here = f"{len(host.gpus)} x {host.gpus[0].name} ({host.gpus[0].capability})"
    if len(suited) < count:
        yield Finding("gpu", "mismatch", f"needs {asked}; this machine has {here}", remedy)
    elif len(large) < count:
        text = f"needs {amount(need, 'bytes')} on each for the weights; the smallest here has "
        yield Finding("gpu", "mismatch", text + amount(min(gpu.memory for gpu in suited), "bytes"), remedy)
    else:
        yield Finding("gpu", "ok", here)
    yield from _driver(manifest, host)


def _driver(manifest: Manifest, host: Host) -> Iterator[Finding]:
    """`cuda` of the toolchain ("12.5") against the driver ("550.54")."""
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


def _room(manifest: Manifest, folder: Path, host: Host) -> Iterator[Finding]:
    if manifest.device.kind == "cpu":
        need = sum(file.size for file in manifest.files if file.media_type == SAFETENSORS)
        state: Literal["ok", "mismatch"] = "ok" if need <= host.memory else "mismatch"
        text = f"weights of {amount(need, 'bytes')}; {amount(host.memory, 'bytes')} available"
        yield Finding("memory", state, text, "use a machine with more memory, or a smaller dtype", "room")
    missing = sum(file.size for file in manifest.files if not (folder / file.path).is_file())
    state = "ok" if missing <= host.disk else "mismatch"
    text = f"{amount(missing, 'bytes')} to fetch; {amount(host.disk, 'bytes')} free at {folder}"
    yield Finding("disk", state, text, "free some, or choose a folder on another disk", "room")


def ranks(manifest: Manifest) -> int:
    return manifest.parallel.tp * manifest.parallel.pp


def rank_bytes(manifest: Manifest) -> int:
    """Bytes of the largest rank's weights."""
    sizes = {file.path: file.size for file in manifest.files}
    paths = manifest.segments.weights if manifest.segments is not None else ()
    paths = manifest.engines.files if manifest.engines is not None else paths
    return max((sizes[path] for path in paths), default=0)


def _numbers(version: str, count: int) -> list[str]:
    return version.split("+")[0].split(".")[:count]
