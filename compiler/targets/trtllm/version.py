"""Version of TensorRT-LLM that a checkpoint is for.

The unified checkpoint (config.json and rank{i}.safetensors) begins with 0.8, and its build command ends before 1.2.
`lmi/images.py` has the version in each LMI image.
"""

from __future__ import annotations

import re
from typing import Protocol

from compiler.errors import RefusedError, UsageError
from compiler.lmi.images import TrtllmImage, image_for_trtllm, trtllm_image

Version = tuple[int, int, int]


class VersionChoice(Protocol):
    """Options that decide the version; "" = default."""

    @property
    def version(self) -> str: ...
    @property
    def image(self) -> str: ...


DEFAULT = "0.12.0"
"""Version in the last LMI images with a Triton repository."""
FIRST: Version = (0, 8, 0)
END: Version = (1, 2, 0)


def parse_version(text: str) -> Version:
    """Parse `0.12.0`, `0.21.0rc1` or `0.12`; "" is the default. A release candidate counts as its release.

    Raises:
        UsageError: it is no version.
        RefusedError: the version has no unified checkpoint, or one that is not known here.
    """
    version = release_of(text or DEFAULT)
    if version < FIRST:
        raise RefusedError(
            f"TensorRT-LLM has a checkpoint format from 0.8.0 on; found {text}",
            hint="Its image converts the model itself: `lmi-compile build` with `--image` writes the command.",
        )
    if version >= END:
        raise RefusedError(
            f"checkpoints are written for TensorRT-LLM 0.8 to 1.1; found {text}",
            hint="LMI images have 0.21.0 (LMI 0.33.0) at most.",
        )
    return version


def release_of(text: str) -> Version:
    """Parse any version of TensorRT-LLM. Raises UsageError."""
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:(?:\.|rc|\.dev|a|b)\d+)*", text)
    if match is None:
        raise UsageError(
            f"`--trtllm-version` takes a version of TensorRT-LLM such as {DEFAULT}; found `{text}`",
            hint="Or pass the image: `--image 0.30.0-tensorrtllm0.12.0-cu125`.",
        )
    major, minor, patch = (int(part or 0) for part in match.groups())
    return major, minor, patch


def show(version: Version) -> str:
    return ".".join(map(str, version))


def image_of(options: VersionChoice) -> TrtllmImage | None:
    """Requested LMI image, else the newest one with the version, None without one.

    Raises:
        UsageError: it is no LMI image with TensorRT-LLM, or has another version than the requested one.
        RefusedError: its LMI release cannot load engines.
    """
    if not options.image:
        return image_for_trtllm(show(release_of(options.version or DEFAULT)))
    image = trtllm_image(options.image)
    if options.version and release_of(options.version)[:2] != release_of(image.trtllm)[:2]:
        raise UsageError(
            f"`--image {options.image}` has TensorRT-LLM {image.trtllm}; found `--trtllm-version {options.version}`",
            hint="Omit one of them.",
        )
    return image


def version_of(options: VersionChoice) -> Version:
    """Version of the checkpoint: the image's, the requested one, or the default. Raises as `image_of` does."""
    image = image_of(options) if options.image else None
    return parse_version(image.trtllm if image else options.version)
