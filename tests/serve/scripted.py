"""A model that says the words of its prompt, one a token, and can be held, or fail, on the way.

"a b c"     tokens "a", " b", " c"; ends as `length` where max_new_tokens is fewer
"hold a"    waits before each token until `go` is released once
"refuse"    is not taken         "fail"    the model fails for good at the first token
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence

from compiler.errors import LmiCompileError, RankError, RefusedError
from compiler.runtime.params import Completion, FinishReason, GenerationParams, TextPiece, Token


class Scripted:
    """Notes the batches that ran, by their prompts."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.running = threading.Semaphore(0)
        self.batches: list[list[str]] = []
        self._prompts: list[str] = []

    def check(self, prompt: str, params: GenerationParams) -> list[int]:
        del params
        if prompt == "refuse":
            raise RefusedError("this artifact holds 128 tokens a row", hint="Shorten the prompt.")
        self._prompts.append(prompt)
        return [len(self._prompts) - 1]

    def stream_batch(
        self, prompts: Sequence[Sequence[int]], params: Sequence[GenerationParams]
    ) -> Generator[tuple[int, TextPiece | LmiCompileError], None, None]:
        texts = [self._prompts[ids[0]] for ids in prompts]
        self.batches.append(texts)
        rows = {index: _pieces(text, params[index]) for index, text in enumerate(texts)}
        self.running.release()
        while rows:
            for index in list(rows):
                if texts[index] == "fail":
                    raise RankError("rank 1 ended: killed", hint="See its log.")
                if texts[index].startswith("hold"):
                    self.go.acquire()
                piece = next(rows[index])
                if piece.completion is not None:
                    del rows[index]
                yield index, piece


def _pieces(text: str, params: GenerationParams) -> Generator[TextPiece, None, None]:
    words = text.split()
    shown = [word if i == 0 else f" {word}" for i, word in enumerate(words)][: params.max_new_tokens]
    tokens = tuple(Token(i, word, -0.5 * (i + 1), special=False) for i, word in enumerate(shown))
    reason: FinishReason = "length" if len(shown) < len(words) else "eos_token"
    for i, token in enumerate(tokens):
        last = i == len(tokens) - 1
        done = Completion("".join(shown), tokens, reason, 1, -1.0, 0.0) if last else None
        yield TextPiece(token.text, token, done)
