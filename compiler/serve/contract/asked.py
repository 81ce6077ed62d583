"""Rows that a request asks for, and the form of their answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from compiler.runtime.params import GenerationParams, TextPiece
    from compiler.runtime.row import Row


class Reply(Protocol):
    """Form of the answer to one request. `index` counts the rows of the request."""

    @property
    def media_type(self) -> str: ...

    def part(self, index: int, row: Row, piece: TextPiece) -> bytes:
        """Bytes of a stream for the next piece of a row."""

    def end(self) -> bytes:
        """Bytes after the last piece of a stream."""

    def failed(self, message: str) -> bytes:
        """Last bytes of a stream that an error ended."""

    def whole(self, rows: Sequence[Row], pieces: Sequence[Sequence[TextPiece]]) -> bytes:
        """Body of an answer that is not streamed, from all rows and all pieces of each."""


@dataclass(frozen=True)
class Prompt:
    """Text of one row. `special`: add the special tokens that the model expects around a prompt. `keep`: number of
    tokens at the end that are kept; None: all.
    """

    text: str
    special: bool = True
    keep: int | None = None


@dataclass(frozen=True)
class Asked:
    """Rows and the form of their answer. `ignored`: parameters without effect, reported in a header. `fit`: the number
    of new tokens is a default, and becomes what the artifact has room for.
    """

    prompts: Sequence[Prompt]
    params: Sequence[GenerationParams]
    stream: bool
    reply: Reply
    ignored: Sequence[str] = field(default=())
    fit: bool = False


def sequences(params: GenerationParams, count: int, prompts: int) -> list[GenerationParams]:
    """Parameters of `count` sequences for each prompt. A seed gives each sequence its own, so that they differ."""
    seeds = [None if params.seed is None else params.seed + number for number in range(count)]
    return [replace(params, seed=seed) for seed in seeds] * prompts
