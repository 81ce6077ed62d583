"""Section of target `checkpoint` in the manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compiler.artifact.sections import InnerPath, Section


class PinnedCheckpoint(Section, extra="forbid"):
    """A model's own files. `compiled`: what was compiled, which is nothing. `backend`, `release`: container that it is
    for; `image`: tag, None where only the release is known. `weights`: files with tensors, in the order of the index.
    `serving`: properties that were requested, by full name. `uri`: S3 prefix of the artifact, "" for none.
    """

    compiled: Literal["nothing"] = "nothing"
    backend: Literal["vllm", "lmi-dist", "deepspeed"]
    release: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    image: str | None
    weights: Annotated[tuple[InnerPath, ...], Field(min_length=1)]
    serving: dict[str, str] = Field(default_factory=dict)
    uri: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Files with tensors."""
        return self.weights

    @property
    def image_tag(self) -> str | None:
        """Tag of the LMI image."""
        return self.image

    def facts(self) -> list[tuple[str, str]]:
        """Lines of `inspect`: files, and the container that loads them."""
        return [
            ("holds", f"the checkpoint as published, {len(self.weights)} file(s); nothing is compiled ahead of time"),
            ("for", f"LMI {self.release} with {self.backend}{f', image {self.image}' if self.image else ''}"),
        ]


SECTION = PinnedCheckpoint
