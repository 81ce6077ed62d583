"""Python interface to a compiled artifact.

    with load("artifact") as model:
        for piece in model.stream("Once upon", GenerationParams(max_new_tokens=40)):
            print(piece.text, end="", flush=True)

This process is rank 0. An artifact of tp > 1 starts one process for each other rank; they live until the model is
closed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import RefusedError, TokenizerError, UsageError
from compiler.model.limits import Limits
from compiler.runtime.ends import end_ids
from compiler.runtime.engine import Engine, Logits
from compiler.runtime.logits import all_logits
from compiler.runtime.params import Completion, GenerationParams, TextPiece
from compiler.runtime.ranks import DEFAULT_TIMEOUT, Ranks
from compiler.runtime.row import Row
from compiler.runtime.scheduler import Scheduler, run
from compiler.tokenizer.bounded import encode_bounded
from compiler.tokenizer.load import load_tokenizer
from compiler.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from types import TracebackType

    from compiler.artifact.manifest import Manifest

Prompt = str | Sequence[int]
"""Prompt: text, or token ids."""


class Model:
    """An artifact that is loaded and ready. Made by `load`; runs one generation at a time."""

    def __init__(
        self, engine: Engine, limits: Limits, vocab: int, tokenizer: Tokenizer | None, ends: frozenset[int]
    ) -> None:
        self._engine, self._limits, self._vocab = engine, limits, vocab
        self._tokenizer, self._ends = tokenizer, ends
        self._busy = threading.Lock()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes of the other ranks."""
        self._engine.close()

    @property
    def limits(self) -> Limits:
        return self._limits

    def encode(self, prompt: Prompt, *, special: bool = True) -> list[int]:
        """Token ids of a prompt. `special`: text gets the special tokens that the model expects around it.

        Raises:
            TokenizerError: the prompt is text and the artifact has no tokenizer.
            UsageError: the prompt has no tokens, ids outside the vocabulary, or half of a character of UTF-16.
        """
        if isinstance(prompt, str):
            if self._tokenizer is None:
                raise TokenizerError(
                    "the prompt is text and this artifact has no tokenizer",
                    hint="Build it with `--tokenizer DIR`, or pass token ids.",
                )
            ids = encode_bounded(self._tokenizer, prompt, self._limits.max_positions, special=special)
        else:
            ids = [int(token) for token in prompt]
        if not ids:
            raise UsageError("a prompt needs at least one token; found none", hint="Pass some text.")
        wrong = [token for token in ids if not 0 <= token < self._vocab]
        if wrong:
            raise UsageError(
                f"token ids are 0 to {self._vocab - 1}; found {', '.join(map(str, wrong[:5]))}",
                hint="Use the artifact's own tokenizer.",
            )
        return ids

    def stream(self, prompt: Prompt, params: GenerationParams | None = None) -> Iterator[TextPiece]:
        """Answer one prompt, token by token; the last piece has the completion.

        Raises:
            UsageError, TokenizerError: as `encode`; or another generation of this model is in flight.
            RefusedError: prompt and answer need more positions than the artifact has.
            NumericsError: the model's logits are not finite.
            RankError: a rank ended or hangs.
        """
        row = self.row(0, prompt, params or GenerationParams())
        with self._alone():
            for _, piece in run(self._engine, [row], self._limits):
                yield piece

    def generate(
        self, prompts: Sequence[Prompt], params: GenerationParams | Sequence[GenerationParams] | None = None
    ) -> list[Completion]:
        """Answer prompts, in their order. `params`: one for all, or one for each.

        Up to `max_batch` prompts run at once; the next one joins as soon as one ends. Raises as `stream`, and checks
        all prompts before anything runs.
        """
        if params is None or isinstance(params, GenerationParams):
            params = [params or GenerationParams()] * len(prompts)
        if isinstance(prompts, str) or len(params) != len(prompts):
            raise UsageError(
                f"expected a list of prompts and as many params; found {len(params)} params",
                hint="Pass one GenerationParams, or one for each prompt.",
            )
        rows = [self.row(i, prompt, p) for i, (prompt, p) in enumerate(zip(prompts, params, strict=True))]
        with self._alone():
            pieces = list(run(self._engine, rows, self._limits))
        completions = {index: piece.completion for index, piece in pieces if piece.completion is not None}
        return [completions[index] for index in range(len(rows))]

    @contextmanager
    def scheduler(self) -> Iterator[Scheduler]:
        """Scheduler of rows (see `row`) that come and go. Raises UsageError where a generation is in flight."""
        with self._alone():
            yield Scheduler(self._engine, self._limits)

    def row(self, index: int, prompt: Prompt, params: GenerationParams) -> Row:
        """Row for `scheduler`. Raises what `stream` raises of prompt and parameters; runs nothing."""
        ids = self.encode(prompt)
        if params.stop and self._tokenizer is None:
            raise TokenizerError(
                "stop sequences are text and this artifact has no tokenizer",
                hint="Build it with `--tokenizer DIR`.",
            )
        self._check_positions(len(ids), params.max_new_tokens)
        return Row(index, ids, params, self._vocab, self._ends, self._tokenizer)

    def logits(self, token_ids: Sequence[int], *, decode_from: int | None = None) -> Logits:
        """Logits after each of n tokens: float32 [n, vocab].

        Tokens from index `decode_from` on go through decode steps, those before through prefill; default: all prefill.
        """
        decoded = 0 if decode_from is None else len(token_ids) - decode_from
        return self.logits_of_rows([token_ids], decoded=decoded)[0]

    def logits_of_rows(
        self, rows: Sequence[Sequence[int]], *, decoded: int, prefilled: bool = True, chunk: int | None = None
    ) -> list[Logits]:
        """Logits after each of the n tokens of up to `max_batch` rows that run at once: float32 [n, vocab] of each.

        The last `decoded` tokens of each row go through decode steps; those before go through prefill, at most `chunk`
        positions per step. `prefilled` False: logits of the decode steps only, [decoded, vocab].
        """
        ids = [self.encode(list(row)) for row in rows]
        self._check_positions(max(map(len, ids)), 0)
        most = self._limits.prefill_chunk
        with self._alone():
            return all_logits(self._engine, ids, min(chunk or most, most), decoded, prefilled=prefilled)

    def _check_positions(self, prompt: int, answer: int) -> None:
        if prompt + answer > self._limits.max_positions:
            raise RefusedError(
                f"this artifact holds {self._limits.max_positions} tokens per row; "
                f"{prompt} of the prompt and up to {answer} new ones are {prompt + answer}",
                hint="Shorten the prompt, ask for fewer new tokens, or build with a larger `--max-positions`.",
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise UsageError(
                "another generation of this model is in flight",
                hint="Exhaust or close its stream first; pass prompts that shall run together to `generate`.",
            )
        try:
            yield
        finally:
            self._busy.release()


def _import_torch() -> None:
    """Import all of torch: the process may use it for anything else."""
    import torch

    del torch


def load(
    artifact: str | Path,
    *,
    full_check: bool = False,
    timeout: float = DEFAULT_TIMEOUT,
    import_torch: Callable[[], None] = _import_torch,
) -> Model:
    """Check an artifact and load it on this machine.

    Before anything is loaded, the artifact is checked: torch's version, instruction set or GPU, the size of every file
    (`full_check`: its digest). `timeout`: seconds without an answer after which a rank counts as hanging.
    `import_torch`: `lean.import_torch` in a process that only runs artifacts.

    Raises:
        ArtifactError, IncompatibleError: the artifact is damaged, or was built for another machine.
        RankError: a rank ended or hung while loading.
    """
    from compiler.runtime.section import check_artifact

    folder = Path(artifact).absolute()
    manifest = check_artifact(folder, by="sha256" if full_check else "size")
    tokenizer, ends = load_tokenizer(folder / "tokenizer"), end_ids(folder / "tokenizer")
    engine = _start(manifest, folder, timeout, import_torch)
    return Model(engine, Limits(**manifest.limits.model_dump()), manifest.config.vocab, tokenizer, ends)


def _start(manifest: Manifest, folder: Path, timeout: float, import_torch: Callable[[], None]) -> Engine:
    """Start, load and join all ranks. The followers start first, so that they load while this process does."""
    ranks = None
    if manifest.parallel.tp > 1:
        from compiler.runtime.follower import SHARE

        ranks = Ranks(folder, manifest.parallel.tp, share=SHARE, device=manifest.device.kind, timeout=timeout)
    try:
        from compiler.runtime.load import map_weights, share_of

        weights = map_weights(manifest, folder, 0)
        import_torch()
        share = share_of(manifest, folder, 0, weights)
        if ranks is not None:
            share.group = ranks.connect()
    except BaseException:
        if ranks is not None:
            ranks.kill()
        raise
    return Engine(share, ranks)
