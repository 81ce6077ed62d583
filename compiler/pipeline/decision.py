"""Decision tree: containers that can serve a model on a kind of device, in the order of preference.

    NeuronCores          neuron
    processors           inductor, in an image of one's own
    GPUs, today          vLLM (LMI 0.33 and later), then TensorRT-LLM in the last images that load engines, then the
                         container that compiles nothing ahead of time
    GPUs, LMI 0.25-0.32  TensorRT-LLM, then LMI-Dist, which compiles nothing

Sources: LMI's page on backend selection at v0.29.0 of djl-serving (TensorRT-LLM where prompts and answers have even
lengths, LMI-Dist otherwise and where TensorRT-LLM lacks the architecture), its deployment guide at v0.36.0 (vLLM or
TensorRT-LLM); release notes of CUDA 12.8, 12.9 and 13.0 (compute capabilities). No image was run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler import targets
from compiler.errors import RefusedError, UsageError
from compiler.lmi.checkpoint import profile_of
from compiler.lmi.images import TRTLLM, Release

if TYPE_CHECKING:
    from compiler.lmi.instance_table import Instance

_LEAST_CUDA = {"10.0": (12, 8), "12.0": (12, 8), "10.3": (12, 9)}
"""Oldest CUDA of an image for each compute capability that the older ones lack."""
_LEAST_BFLOAT16 = (8, 0)
_VLLM_SINCE: Release = (0, 33)
_LMI_DIST: dict[Release, str] = {
    (0, 25): "0.25.0-deepspeed0.11.0-cu118",
    (0, 26): "0.26.0-deepspeed0.12.6-cu121",
    (0, 27): "0.27.0-deepspeed0.12.6-cu121",
    (0, 28): "0.28.0-lmi10.0.0-cu124",
    (0, 29): "0.29.0-lmi11.0.0-cu124",
    (0, 30): "0.30.0-lmi12.0.0-cu124",
    (0, 31): "0.31.0-lmi13.0.0-cu124",
    (0, 32): "0.32.0-lmi14.0.0-cu126",
}
"""Image of each release with LMI-Dist. Source: the list of images of aws/deep-learning-containers."""


@dataclass(frozen=True)
class Backend:
    """Container and the target that builds for it. `image`: tag, or "" for an image of one's own; `cuda`: of the image;
    `least`: oldest compute capability. `options`: of the target, for the plan; `flags`: of the command that builds.
    """

    name: str
    target: str
    image: str
    why: str
    cuda: tuple[int, int] | None = None
    least: tuple[int, int] = (7, 0)
    options: tuple[tuple[str, str], ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def planned(self) -> Any:
        """Options of the target. Raises UsageError without that target."""
        kind = targets.options_of(self.target)
        return kind(**dict(self.options))

    def problem(self, instance: Instance, dtype: str) -> str:
        """Reason why the container cannot serve this dtype on these devices, whatever the model; "" if it can."""
        if self.target not in targets.available():
            return f"this version has no target `{self.target}`"
        if not instance.capability:
            return ""
        has = tuple(map(int, instance.capability.split(".")))
        gpu = f"{instance.accelerator} has compute capability {instance.capability}"
        if has < self.least:
            return f"{gpu}; its image runs on {self.least[0]}.{self.least[1]} and newer"
        if dtype == "bfloat16" and has < _LEAST_BFLOAT16:
            return f"{gpu}; bfloat16 needs 8.0: `--dtype float16`"
        needed = _LEAST_CUDA.get(instance.capability)
        if needed and self.cuda and self.cuda < needed:
            return f"{gpu}, which needs CUDA {needed[0]}.{needed[1]}; its image has {self.cuda[0]}.{self.cuda[1]}"
        return ""


def backends(instance: Instance, release: Release | None) -> tuple[Backend, ...]:
    """Containers for an instance type in the order of preference. `release`: of LMI; None: of today."""
    if instance.maker == "AWS":
        why = "graphs for NeuronCores are always compiled ahead of time"
        return (Backend("Neuron", "neuron", "", why, options=(("instance", instance.name),)),)
    if not instance.devices:
        why = "this project's own runtime; no container of AWS serves on processors"
        return (Backend("lmi-compile serve", "inductor", "", why),)
    if release is None:
        return (*_vllm(None), _trtllm((0, 33)), _trtllm((0, 32)), *_own_files(None))
    engines = (_trtllm(release),) if release in TRTLLM else ()
    if release >= _VLLM_SINCE:
        return (*_vllm(release), *engines, *_own_files(release))
    return (*engines, _checkpoint("lmi-dist", _LMI_DIST[release]))


def _lmi_tags(release: Release | None) -> list[str]:
    """Tags of LMI images with vLLM, the oldest first."""
    if "vllm" not in targets.available():
        return []
    beginning = "djl-inference:" + (f"{release[0]}.{release[1]}." if release else "")
    return [name.partition(":")[2] for name in targets.options_of("vllm").images() if name.startswith(beginning)]


def _vllm(release: Release | None) -> tuple[Backend, ...]:
    """The newest LMI image with vLLM, or the newest of a release, with files for its vLLM."""
    if not (tags := _lmi_tags(release)):
        return ()
    tag, why = tags[-1], "serves what is new; its shards and its compile cache come with the artifact"
    cuda = _cuda(tag.rpartition("-")[2])
    least = (7, 5) if cuda >= (13, 0) else (7, 0)
    return (Backend("vLLM", "vllm", tag, why, cuda, least, (("image", tag),), ("--image", tag)),)


def _own_files(release: Release | None) -> tuple[Backend, ...]:
    """Back end for the model's own files, in the newest image whose properties are known."""
    for tag in reversed(_lmi_tags(release)):
        try:
            profile_of("vllm", tag)
        except (RefusedError, UsageError):
            continue  # newer than the tables of its properties
        return (_checkpoint("vllm", tag),)
    return ()


def known_releases() -> list[Release]:
    """LMI releases with a container of the tree, the oldest first."""
    with_vllm = (tag.split(".")[:2] for tag in _lmi_tags(None))
    return sorted({*TRTLLM, *_LMI_DIST, *((int(major), int(minor)) for major, minor in with_vllm)})


def _trtllm(release: Release) -> Backend:
    image = TRTLLM[release]
    # Before 0.8 the image converts the model itself; the sizes are those of the default version's checkpoint.
    options = (("image", image.tag),) if release >= (0, 27) else ()
    why = "engines start without the minutes of a compilation; best where prompts and answers have even lengths"
    least = (8, 0) if release >= (0, 33) else (7, 0)
    return Backend(
        f"TensorRT-LLM {image.trtllm}",
        "trtllm",
        image.tag,
        why,
        _cuda(image.cuda),
        least,
        options,
        ("--image", image.tag),
    )


def _checkpoint(profile: str, tag: str) -> Backend:
    """Back end that loads the model's own files."""
    names = {"lmi-dist": "LMI-Dist", "vllm": "vLLM, own files"}
    why = "compiles nothing ahead of time; for uneven lengths, and for architectures that the others lack"
    options = (("profile", profile), ("image", tag))
    flags = ("--profile", profile, "--image", tag)
    return Backend(names[profile], "checkpoint", tag, why, _cuda(tag.rpartition("-")[2]), (7, 0), options, flags)


def _cuda(text: str) -> tuple[int, int]:
    """`cu125` as (12, 5)."""
    digits = text.removeprefix("cu")
    return int(digits[:2]), int(digits[2:])
