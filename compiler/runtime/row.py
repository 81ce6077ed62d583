"""One prompt and its answer so far: sampling, text, stop sequences, end of the answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from compiler.runtime.params import Completion, FinishReason, GenerationParams, TextPiece, Token
from compiler.runtime.sampling import Row as RowLogits
from compiler.runtime.sampling import Sampler, log_normalizer
from compiler.runtime.text import Detokenizer, StopMatcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from compiler.tokenizer.tokenizer import Tokenizer


class Row:
    """Answer to one prompt. `index`: the caller's number for it. The clock of the first token starts here."""

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
        self.prompt_log_probs: list[float] = []
        self._ends = (frozenset[int]() if params.ignore_eos else ends) | frozenset(params.stop_ids)
        self._sampler = Sampler(params, vocab, prompt, self._ends)
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer.decode, prompt) if tokenizer else None
        self._stops = StopMatcher(params.stop, include=params.include_stop)
        self._texts: list[str] = []
        self._begun = time.perf_counter()
        self._first = 0.0

    @property
    def length(self) -> int:
        """Positions of prompt and answer, if it becomes as long as allowed."""
        return len(self.prompt) + self.params.max_new_tokens

    @property
    def position(self) -> int:
        """Position of the newest token in the row."""
        return len(self.prompt) + len(self.tokens) - 1

    def text_of(self, token: int) -> str:
        """Text of one token by itself, "" without a tokenizer."""
        if self._tokenizer is None:
            return ""
        return self._tokenizer.special(token) or self._tokenizer.decode([token])

    def read_prompt(self, begin: int, logits: npt.NDArray[np.float32]) -> None:
        """Take log probabilities of prompt tokens from the logits [n, vocab] after tokens begin ... begin + n - 1."""
        for place, one in enumerate(logits, begin + 1):
            if place < len(self.prompt):
                self.prompt_log_probs.append(float(one[self.prompt[place]]) - log_normalizer(one))

    def advance(self, logits: RowLogits) -> TextPiece:
        """Choose the next token from logits [vocab]. Raises NumericsError where they are not finite."""
        token_id, log_prob, top = self._sampler.choose(logits)
        if not self.tokens:
            self._first = time.perf_counter() - self._begun
        name = self._tokenizer.special(token_id) if self._tokenizer else None
        ended = token_id in self._ends
        text = "" if ended or self._detokenizer is None else self._detokenizer.push(token_id)
        special = name is not None or ended
        if name is not None and not self.params.skip_special:
            text = f"{text}{name}"
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
            stopped_by=self._stops.found if reason == "stop_sequence" else None,
            prompt_log_probs=tuple(self.prompt_log_probs),
        )
