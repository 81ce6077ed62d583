"""Batch of prompts on an engine: prefilled together, then one token per row and step; finished rows leave.

Row r of the batch is row r of the caches. Prompts are padded on the right to the longest: padding writes cache
positions behind the row's own, which the row overwrites before it can attend to them. When a row leaves, the last row
moves into its place, so that a step computes no finished rows.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from compiler.runtime.commands import StepCommand
from compiler.runtime.params import Completion, FinishReason, GenerationParams, TextPiece, Token
from compiler.runtime.sampling import Row as RowLogits
from compiler.runtime.sampling import Sampler
from compiler.runtime.text import Detokenizer, StopMatcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from compiler.runtime.engine import Engine, Logits
    from compiler.runtime.tokenizer import Tokenizer

_CACHE_STEP = 64  # positions; caches grow in such steps, so that similar requests reuse them


class Row:
    """One prompt and its answer so far."""

    def __init__(
        self,
        index: int,
        prompt: Sequence[int],
        params: GenerationParams,
        vocab: int,
        ends: frozenset[int],
        tokenizer: Tokenizer | None,
    ) -> None:
        self.index = index
        self.prompt = tuple(prompt)
        self.params = params
        self.tokens: list[Token] = []
        self._ends = frozenset[int]() if params.ignore_eos else ends
        self._sampler = Sampler(params, vocab, prompt)
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer.decode, prompt) if tokenizer else None
        self._stops = StopMatcher(params.stop)
        self._texts: list[str] = []
        self._begun = time.perf_counter()
        self._first = 0.0

    @property
    def position(self) -> int:
        """Position of the newest token in the row."""
        return len(self.prompt) + len(self.tokens) - 1

    def advance(self, logits: RowLogits) -> TextPiece:
        """Choose the next token from logits [vocab]."""
        token_id, log_prob, top = self._sampler.choose(logits)
        if not self.tokens:
            self._first = time.perf_counter() - self._begun
        name = self._tokenizer.special(token_id) if self._tokenizer else None
        ended = token_id in self._ends
        text = "" if ended or self._detokenizer is None else self._detokenizer.push(token_id)
        special = name is not None or ended
        token = Token(token_id, text or name or "", log_prob, special, top)
        self.tokens.append(token)
        shown, stopped = self._stops.push(text)
        reason: FinishReason | None = None
        if stopped:
            reason = "stop_sequence"
        elif ended:
            reason = "eos_token"
        elif len(self.tokens) == self.params.max_new_tokens:
            reason = "length"
        if reason is None:
            self._texts.append(shown)
            return TextPiece(shown, token)
        if not stopped:
            rest, stopped = self._stops.push(self._detokenizer.flush() if self._detokenizer else "")
            shown += rest if stopped else rest + self._stops.flush()
        self._texts.append(shown)
        return TextPiece(shown, token, self._complete(reason))

    def _complete(self, reason: FinishReason) -> Completion:
        return Completion(
            text="".join(self._texts),
            tokens=tuple(self.tokens),
            finish_reason=reason,
            prompt_tokens=len(self.prompt),
            log_prob=sum(token.log_prob for token in self.tokens),
            seconds_to_first_token=self._first,
        )


def run(engine: Engine, rows: Sequence[Row], chunk: int, max_positions: int) -> Iterator[tuple[int, TextPiece]]:
    """Generate all rows: (index of the row, piece) for every token, step by step. At most `max_batch` rows."""
    longest = max(len(row.prompt) + row.params.max_new_tokens for row in rows)
    engine.make_room(len(rows), min(-(-longest // _CACHE_STEP) * _CACHE_STEP, max_positions))
    logits: Sequence[RowLogits] = prefill(engine, [row.prompt for row in rows], chunk)
    active = list(rows)
    while True:
        done = []
        for place, row in enumerate(active):
            piece = row.advance(logits[place])
            if piece.completion is not None:
                done.append(place)
            yield row.index, piece
        for place in reversed(done):
            last = active.pop()
            if place < len(active):
                active[place] = last
                engine.move(len(active), place)
        if not active:
            return
        logits = decode(engine, active)


def prefill(engine: Engine, prompts: Sequence[Sequence[int]], chunk: int) -> list[RowLogits]:
    """Write all prompts into the caches, `chunk` positions per step. -> logits [vocab] after the last token of each."""
    lengths = np.array([len(prompt) for prompt in prompts])
    padded = np.zeros((len(prompts), lengths.max()), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    found: dict[int, RowLogits] = {}
    for begin in range(0, padded.shape[1], chunk):
        end = min(begin + chunk, padded.shape[1])
        ends_here = np.flatnonzero((lengths > begin) & (lengths <= end))
        # A step returns equally many logits for every row, so rows that end elsewhere request those of some token too.
        last = np.clip(lengths - 1 - begin, 0, end - begin - 1)[:, None] if ends_here.size else no_logits(prompts)
        logits = engine.step(StepCommand(padded[:, begin:end], _positions(len(prompts), begin, end), last, end))
        if logits is not None:
            found |= {int(row): logits[row, 0] for row in ends_here}
    return [found[row] for row in range(len(prompts))]


def decode(engine: Engine, rows: Sequence[Row]) -> Sequence[RowLogits]:
    """Write the newest token of every row into the caches. -> logits [vocab] after each."""
    tokens = np.array([[row.tokens[-1].id] for row in rows])
    positions = np.array([[row.position] for row in rows])
    logits = engine.step(StepCommand(tokens, positions, np.zeros_like(tokens), int(positions.max()) + 1))
    assert logits is not None
    return list(logits[:, 0])


def all_logits(
    engine: Engine, rows: Sequence[Sequence[int]], chunk: int, decoded: int, *, prefilled: bool = True
) -> list[Logits]:
    """Logits [n, vocab] after each of the n tokens of every row. Rows of any length run at once; the last `decoded`
    tokens of each go through decode steps, those before through prefill, `chunk` positions per step.

    `prefilled` False: logits of the decode steps only, [decoded, vocab].
    """
    ids = [np.asarray(row, dtype=np.int64) for row in rows]
    prompts = [len(row) - decoded for row in ids]
    engine.make_room(len(ids), max(map(len, ids)))
    parts: list[list[Logits]] = [[] for _ in ids]
    padded = np.zeros((len(ids), max(prompts)), dtype=np.int64)
    for row, own in enumerate(ids):
        padded[row, : prompts[row]] = own[: prompts[row]]
    for begin in range(0, padded.shape[1], chunk):
        end = min(begin + chunk, padded.shape[1])
        last = np.tile(np.arange(end - begin), (len(ids), 1)) if prefilled else no_logits(ids)
        logits = engine.step(StepCommand(padded[:, begin:end], _positions(len(ids), begin, end), last, end))
        if logits is not None:
            for row, count in enumerate(prompts):
                parts[row].append(logits[row, : max(min(count, end) - begin, 0)])
    for step in range(decoded):
        positions = np.array([[count + step] for count in prompts])
        tokens = np.array([own[place] for own, place in zip(ids, positions, strict=True)])
        logits = engine.step(StepCommand(tokens, positions, np.zeros_like(tokens), int(positions.max()) + 1))
        assert logits is not None
        for row, own in enumerate(logits):
            parts[row].append(own)
    return [np.concatenate(part) for part in parts]


def no_logits(rows: Sequence[object]) -> npt.NDArray[np.int64]:
    """Argument `last` of a step without logits: [rows, 0]."""
    return np.zeros((len(rows), 0), dtype=np.int64)


def _positions(rows: int, begin: int, end: int) -> npt.NDArray[np.int64]:
    return np.broadcast_to(np.arange(begin, end), (rows, end - begin))
