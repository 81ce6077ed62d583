"""Options of target `vllm`."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.targets.options import TargetOptions, option


@dataclass(frozen=True)
class VllmOptions(TargetOptions):
    """Options of target `vllm`. `image`: "" = none; `version`: "" = that of the image, or the default.
    `weights`: "shards", "plain", or "auto" for shards where the layout of the architecture is known.

    `scheme`: name of the layers' scheme in a compressed-tensors checkpoint, "" for none; derived.
    """

    image: str = option("", "LMI, AWS vLLM or vllm-openai image that will serve it; implies the version.")
    weights: str = option(
        "auto", "shards, plain (the checkpoint as it is), or auto: shards where their layout is known [default: auto]"
    )
    version: str = option("", "vLLM to write shards for [default: the image's, or 0.32.0]", flags=("--vllm-version",))
    scheme: str = ""

    @classmethod
    def images(cls) -> tuple[str, ...]:
        """Images of the table in images.py."""
        from compiler.targets.vllm.images import IMAGES

        return tuple(IMAGES)


OPTIONS = VllmOptions
PLAIN = VllmOptions()
