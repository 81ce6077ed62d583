"""Options of target `vllm`."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.targets.options import TargetOptions, option


@dataclass(frozen=True)
class VllmOptions(TargetOptions):
    """Options of target `vllm`. `image`: "" = none; `version`: "" = that of the image, or the default.
    `weights`: "shards", "plain", or "auto" for shards where the layout of the architecture is known.

    `serving`: arguments of the server, see serving.py. `on_miss`: see carrier/__init__.py.

    `scheme`: name of the layers' scheme in a compressed-tensors checkpoint, "" for none; derived.
    """

    image: str = option("", "LMI, AWS vLLM or vllm-openai image that will serve it; implies the version.")
    weights: str = option(
        "auto", "shards, plain (the checkpoint as it is), or auto: shards where their layout is known [default: auto]"
    )
    version: str = option("", "vLLM to write shards for [default: the image's, or 0.32.0]", flags=("--vllm-version",))
    serving: tuple[str, ...] = option(
        (), "Argument of vLLM's server; may be repeated.", flags=("--option",), metavar="NAME=VALUE"
    )
    on_miss: str = option(
        "warn", "fail: a server that would compile ends; warn: it compiles [default: warn]", flags=("--on-miss",)
    )
    scheme: str = ""

    @classmethod
    def images(cls) -> tuple[str, ...]:
        """Images of the table in images.py."""
        from compiler.targets.vllm.images import IMAGES

        return tuple(IMAGES)


OPTIONS = VllmOptions
PLAIN = VllmOptions()
