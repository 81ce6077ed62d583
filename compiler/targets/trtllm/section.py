"""Section of target `trtllm` in the manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compiler.artifact.sections import InnerPath, Section, Sha256, Size, Strict


class BuildLimits(Strict):
    """Limits that engines are built for, by TensorRT-LLM's names; lengths in tokens."""

    max_batch_size: Size
    max_input_len: Size
    max_seq_len: Size
    max_num_tokens: Size


class Engines(Section, extra="forbid"):
    """A TensorRT-LLM checkpoint, or the engines that were built from it.

    `version`: of TensorRT-LLM. `image`: tag of the LMI image that it is for; `container`: file layout of that image
    (None: no image, plain engines). `quant_algo`: TensorRT-LLM's name of the scheme, "" for none. `checkpoint`: digests
    of the files that the engines are built from, by name; `checkpoint_files`: their paths in the artifact, () after the
    engines are built. `files`: the engine of each rank, () before. `argv`: command line that builds them, run in the
    artifact's folder. `serving`: properties that were requested for the container, by full name.
    """

    version: Annotated[str, Field(min_length=1)]
    image: str | None
    container: Literal["triton", "engine"] | None
    quant_algo: str
    checkpoint: dict[str, Sha256]
    checkpoint_files: tuple[InnerPath, ...]
    files: tuple[InnerPath, ...]
    limits: BuildLimits
    argv: tuple[str, ...]
    serving: dict[str, str] = Field(default_factory=dict)

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the checkpoint's files, or of the engines."""
        return (*self.checkpoint_files, *self.files)

    @property
    def rank_files(self) -> tuple[str, ...]:
        """Paths of the engines."""
        return self.files

    @property
    def image_tag(self) -> str | None:
        """Tag of the LMI image."""
        return self.image

    @property
    def unfinished(self) -> str:
        """Hint for a checkpoint whose engines are not built yet, else ""."""
        if self.files:
            return ""
        return "run its `build-engines.sh` on a GPU host with TensorRT-LLM, then `lmi-compile package`"

    def facts(self) -> list[tuple[str, str]]:
        """Lines of `inspect`: version and image, checkpoint or engines, limits."""
        built = f"{len(self.files)} engine(s)" if self.files else "checkpoint; its engines are not built yet"
        image = f", for image {self.image}" if self.image else ""
        limits = ", ".join(f"{name} {value}" for name, value in self.limits.model_dump().items())
        return [("TensorRT-LLM", f"{self.version}{image}"), ("holds", built), ("engines", limits)]


SECTION = Engines
