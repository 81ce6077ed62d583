"""Buckets: lengths that graphs are compiled for. A request uses the smallest that holds it.

Source of the rules: `bucket.py` of transformers-neuronx 0.13 (commit 1ade6d7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.errors import RefusedError

SMALLEST = 128
"""Smallest bucket of the doubling rule."""


@dataclass(frozen=True)
class Buckets:
    """`context`: tokens of a prompt in one step, ascending, () if prompts go token by token. `token`: positions of the
    cache that a decode step reads, ascending.
    """

    context: tuple[int, ...]
    token: tuple[int, ...]


def buckets_of(
    sequence_length: int, token: Sequence[int] | None = None, context: Sequence[int] | None = None
) -> Buckets:
    """Buckets of a model of `sequence_length` tokens. `token` None: SMALLEST doubled up to the sequence length.
    `context` None: half of each token bucket; (0,): none.

    Raises RefusedError for buckets outside of 1 ... `sequence_length`, or a largest token bucket below it.
    """
    found = sorted(set(_doubled(sequence_length) if token is None else token))
    prompts = sorted({max(length // 2, 1) for length in found} if context is None else {*context} - {0})
    for name, lengths in (("--buckets", found), ("--context-buckets", prompts)):
        if wrong := [length for length in lengths if not 1 <= length <= sequence_length]:
            raise RefusedError(
                f"`{name}` are 1 to {sequence_length} tokens, the sequence length; found {wrong[0]}",
                hint="lower it, or raise `--sequence-length`",
            )
    if not found or found[-1] != sequence_length:
        raise RefusedError(
            f"the largest of `--buckets` is the sequence length, {sequence_length}; found {found[-1:] or 'none'}",
            hint=f"add {sequence_length}, or lower `--sequence-length`",
        )
    return Buckets(tuple(prompts), tuple(found))


def _doubled(longest: int) -> list[int]:
    found = []
    length = SMALLEST
    while length < longest:
        found.append(length)
        length *= 2
    return [*found, longest]
