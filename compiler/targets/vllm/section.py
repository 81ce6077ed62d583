"""Section of target `vllm` in the manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compiler.artifact.sections import InnerPath, Section
from compiler.targets.vllm.cache import CompiledCache, cache_text

OnMiss = Literal["fail", "warn"]
"""Way of a server whose cache has not all it needs."""


class Shards(Section, extra="forbid"):
    """Weights for a vLLM server.

    `version`: of vLLM; `image`: container that serves the artifact, None: none was named. `format`: `load_format` of
    the files. `files`: the shard of each rank, or the files of the checkpoint in order. `compared`: version of vLLM
    whose `save_sharded_state` gave the same bits for tiny models; "": the layout follows its classes by rule and was
    not compared. `scheme`: of compressed-tensors, "" for none. `serving`, `on_miss`: see VllmOptions.
    `cache`: compiled by a server; None: only weights.
    """

    version: Annotated[str, Field(min_length=1)]
    image: str | None
    format: Literal["sharded_state", "safetensors"]
    files: tuple[InnerPath, ...]
    compared: str
    scheme: str = ""
    serving: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()
    on_miss: Annotated[OnMiss, Field(exclude_if=lambda value: value == "warn")] = "warn"
    cache: Annotated[CompiledCache | None, Field(exclude_if=lambda value: value is None)] = None

    @property
    def rank_files(self) -> tuple[str, ...]:
        """Shards in rank order; () for a plain checkpoint."""
        return self.files if self.format == "sharded_state" else ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Files of the weights and of the cache."""
        cache = (self.cache.archive, self.cache.report) if self.cache else ()
        return (*self.files, *cache)

    @property
    def image_tag(self) -> str | None:
        """Container image."""
        return self.image

    @property
    def unfinished(self) -> str:
        """Hint for shards without a cache, else ""."""
        return "" if self.cache else "run its `bake.sh` where vLLM is, then `lmi-compile package`"

    def facts(self) -> list[tuple[str, str]]:
        """Lines of `inspect`: version, image and files."""
        image = f", for image {self.image}" if self.image else ""
        by = f"equal to save_sharded_state of vLLM {self.compared}" if self.compared else "by rule, not compared"
        held = f"{len(self.files)} file(s), load_format {self.format}"
        lines = [("vLLM", f"{self.version}{image}"), ("weights", f"{held} ({by})" if self.rank_files else held)]
        return [*lines, *([("cache", cache_text(self.cache))] if self.cache else [])]


SECTION = Shards
