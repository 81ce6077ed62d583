"""Which TensorRT-LLM a checkpoint is written for.

The unified checkpoint (config.json and rank{i}.safetensors) begins with 0.8 and its build command ends before 1.2.
Which version an LMI image carries is in `lmi/images.py`.
"""

from __future__ import annotations

import re

from compiler.errors import RefusedError, UsageError
from compiler.lmi.images import TrtllmImage, image_for_trtllm, trtllm_image
from compiler.targets.trtllm.options import TrtllmOptions

Version = tuple[int, int, int]

DEFAULT = "0.12.0"
"""What the last LMI images with a Triton repository carry."""
FIRST: Version = (0, 8, 0)
END: Version = (1, 2, 0)


def parse_version(text: str) -> Version:
    """`0.12.0`, `0.21.0rc1`, `0.12`; "" is the default. A release candidate counts as its release.

    Raises:
        UsageError: not a version.
        RefusedError: a version without the unified checkpoint, or one whose checkpoint nobody has read.
    """
    version = release_of(text or DEFAULT)
    if version < FIRST:
        raise RefusedError(
            f"TensorRT-LLM {text} has no checkpoint of its own format: that begins with 0.8.0",
            hint="Its image converts the model itself: `lmi-compile build` writes the command for it.",
        )
    if version >= END:
        raise RefusedError(
            f"checkpoints are written for TensorRT-LLM 0.8 to 1.1; found {text}",
            hint="LMI images carry at most 0.21.0 (LMI 0.33.0).",
        )
    return version


def release_of(text: str) -> Version:
    """The numbers of any version of TensorRT-LLM. Raises UsageError."""
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:(?:\.|rc|\.dev|a|b)\d+)*", text)
    if match is None:
        raise UsageError(
            f"`--trtllm-version` is a version of TensorRT-LLM such as {DEFAULT}; found `{text}`",
            hint="Or name the image: `--image 0.30.0-tensorrtllm0.12.0-cu125`.",
        )
    major, minor, patch = (int(part or 0) for part in match.groups())
    return major, minor, patch


def show(version: Version) -> str:
    return ".".join(map(str, version))


def image_of(options: TrtllmOptions) -> TrtllmImage | None:
    """The LMI image that is asked for, else the newest that carries the version; None where none does.

    Raises:
        UsageError: not such an image, or it does not carry the version that is asked for too.
        RefusedError: an LMI release that cannot load engines.
    """
    if not options.image:
        return image_for_trtllm(show(release_of(options.version or DEFAULT)))
    image = trtllm_image(options.image)
    if options.version and release_of(options.version)[:2] != release_of(image.trtllm)[:2]:
        raise UsageError(
            f"`--image {options.image}` carries TensorRT-LLM {image.trtllm}; `--trtllm-version` says {options.version}",
            hint="Leave one of them out.",
        )
    return image


def version_of(options: TrtllmOptions) -> Version:
    """The version to write for: that of the options, of their image, or the default. Raises as `image_of` does."""
    image = image_of(options) if options.image else None
    return parse_version(image.trtllm if image else options.version)
