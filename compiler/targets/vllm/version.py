"""Version of vLLM that shards are for."""

from __future__ import annotations

from compiler.errors import UsageError
from compiler.targets.vllm.images import Version, VllmImage, parse_version, vllm_image
from compiler.targets.vllm.options import VllmOptions

FIRST: Version = (0, 8, 4)
"""Oldest vLLM in an image of images.py."""
COMPARED = "0.32.0"
"""Version whose own `save_sharded_state` the shards were compared with; the default."""


def parse_compared() -> Version:
    """`COMPARED` as numbers."""
    return parse_version(COMPARED)


def image_of(options: VllmOptions) -> VllmImage | None:
    """Requested image, None without one. Raises UsageError for an unknown image or one with another version."""
    if not options.image:
        return None
    image = vllm_image(options.image)
    if options.version and parse_version(options.version) != parse_version(image.vllm):
        raise UsageError(
            f"`--image {options.image}` has vLLM {image.vllm}; found `--vllm-version {options.version}`",
            hint="leave one of them out",
        )
    return image


def version_of(options: VllmOptions) -> Version:
    """Version of vLLM: the image's, the requested one, or the default. Raises UsageError."""
    image = image_of(options)
    return parse_version(image.vllm if image else options.version or COMPARED)


def show(version: Version) -> str:
    """Text of a version: `0.32.0`."""
    return ".".join(map(str, version))
