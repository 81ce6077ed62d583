"""Which TensorRT-LLM a checkpoint is written for.

The unified checkpoint (config.json and rank{i}.safetensors) begins with 0.8 and its build command ends before 1.2.
"""

from __future__ import annotations

import re

from compiler.errors import RefusedError, UsageError

Version = tuple[int, int, int]

DEFAULT = "0.12.0"
"""What the last LMI images with a Triton repository carry."""
FIRST: Version = (0, 8, 0)
END: Version = (1, 2, 0)

IMAGES: dict[tuple[int, int], str] = {
    (0, 25): "0.5.0",
    (0, 26): "0.7.1",
    (0, 27): "0.8.0",
    (0, 28): "0.9.0",
    (0, 29): "0.11.0",
    (0, 30): "0.12.0",
    (0, 31): "0.12.0",
    (0, 32): "0.12.0",
    (0, 33): "0.21.0",
}
"""LMI release -> TensorRT-LLM of its image (tags in the SageMaker SDK, Dockerfiles of djl-serving)."""


def parse_version(text: str) -> Version:
    """`0.12.0`, `0.21.0rc1`, `0.12`; "" is the default. A release candidate counts as its release.

    Raises:
        UsageError: not a version.
        RefusedError: a version without the unified checkpoint, or one whose checkpoint nobody has read.
    """
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:(?:\.|rc|\.dev|a|b)\d+)*", text or DEFAULT)
    if match is None:
        raise UsageError(
            f"`--trtllm-version` is a version of TensorRT-LLM such as {DEFAULT}; found `{text}`",
            hint="Or name the image: `--image 0.30.0-tensorrtllm0.12.0-cu125`.",
        )
    major, minor, patch = (int(part or 0) for part in match.groups())
    version = (major, minor, patch)
    if version < FIRST:
        raise RefusedError(
            f"TensorRT-LLM {text} has no checkpoint of its own format: that begins with 0.8.0",
            hint="Its image converts the model itself, by the partition command inside the container.",
        )
    if version >= END:
        raise RefusedError(
            f"checkpoints are written for TensorRT-LLM 0.8 to 1.1; found {text}",
            hint="LMI images carry at most 0.21.0 (LMI 0.33.0).",
        )
    return version


def show(version: Version) -> str:
    return ".".join(map(str, version))


def version_of_image(image: str) -> str:
    """The TensorRT-LLM inside an LMI image, from its tag: `...:0.30.0-tensorrtllm0.12.0-cu125` or `0.30.0-tensorrtllm`.

    Raises:
        UsageError: the tag is not one of a TensorRT-LLM image.
        RefusedError: LMI 0.34 and later, of which no working TensorRT-LLM image was published.
    """
    tag = image.rpartition(":")[2] if ":" in image else image
    match = re.fullmatch(r"(\d+)\.(\d+)\.\d+(?:-dlc)?-(?:tensorrtllm|trtllm)(\d+\.\d+\.\d+)?(?:-cu\d+)?", tag)
    if match is None:
        raise UsageError(
            f"`--image` is the tag of an LMI image with TensorRT-LLM; found `{image}`",
            hint="For example `0.30.0-tensorrtllm0.12.0-cu125`.",
        )
    release = (int(match[1]), int(match[2]))
    if release not in IMAGES:
        last = max(IMAGES)
        raise RefusedError(
            f"LMI images with TensorRT-LLM engines are 0.25 to {last[0]}.{last[1]}; found LMI {match[1]}.{match[2]}",
            hint="The start-up code of later releases cannot load engines. Use `0.33.0-tensorrtllm0.21.0-cu128`.",
        )
    named = match[3]
    if named and named != IMAGES[release]:
        raise UsageError(
            f"LMI {release[0]}.{release[1]} carries TensorRT-LLM {IMAGES[release]}; the tag says {named}",
            hint="Copy the tag from the list of published images.",
        )
    return IMAGES[release]
