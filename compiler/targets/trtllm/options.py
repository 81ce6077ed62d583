"""Options of target `trtllm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.targets.options import TargetOptions, option

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class TrtllmOptions(TargetOptions):
    """Options of target `trtllm`. `version`, `image`: "" = default. `pp`: pipeline stages, each of tp ranks.
    `moe_ep`: groups of the tp ranks among which experts are divided. Lengths in tokens; `max_num_tokens`: of all rows
    in one step. `serving`: properties `NAME=VALUE` of the container.

    `quant_algo`, `kv_cache_quant_algo`: TensorRT-LLM's names ("" = none), `group_size`: neighbors in a row that share a
    scale where there are groups, derived from the quantization.
    """

    version: str = option("", "TensorRT-LLM to write for [default: 0.12.0]", flags=("--trtllm-version",))
    image: str = option("", "LMI image that will serve it; implies the version.")
    pp: int = option(1, "Pipeline stages, each of `--tp` ranks [default: 1]")
    moe_ep: int = option(1, "Expert-parallel groups of ranks [default: 1]")
    parallel_embedding: bool = option(
        default=False, help="Split the embedding over the vocabulary.", flags=("--parallel-embedding",)
    )
    max_input_len: int | None = option(None, "Tokens of a prompt [default: tokens per row - 512]")
    max_num_tokens: int | None = option(None, "Tokens of all rows in one step.")
    serving: tuple[str, ...] = option(
        (), "Property for serving.properties; may be repeated.", flags=("--option",), metavar="NAME=VALUE"
    )
    quant_algo: str = ""
    kv_cache_quant_algo: str = ""
    group_size: int = 128

    @property
    def backends(self) -> tuple[str, ...]:
        """TensorRT-LLM."""
        return ("trtllm",)

    @property
    def release(self) -> tuple[int, int] | None:
        """LMI release of the image; None where no LMI image has the version."""
        from compiler.targets.trtllm.version import image_of

        image = image_of(self)
        return image.release if image else None

    @property
    def properties(self) -> Mapping[str, str | int | float | bool]:
        """Requested properties of the container, by full name. Raises UsageError, RefusedError."""
        from compiler.lmi.serving_options import serving_options

        return serving_options(self.serving, self.release, self.backends[0]).values if self.serving else {}

    def check_serving(self) -> None:
        """Check `serving`. Raises as `properties`."""
        self.properties.keys()

    @property
    def split(self) -> Mapping[str, Any]:
        """Pipeline stages, expert-parallel groups, and the split of the embedding."""
        return {"pp": self.pp, "moe_ep": self.moe_ep, "parallel_embedding": self.parallel_embedding}


OPTIONS = TrtllmOptions
PLAIN = TrtllmOptions()
