from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from compiler.errors import InternalError, LmiCompileError, RankError, RefusedError
from compiler.runtime.params import GenerationParams, TextPiece
from compiler.serve.batches import Batches, Busy, ServerStopped
from tests.serve.scripted import Scripted

PARAMS = GenerationParams(max_new_tokens=8)


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def batches(model: Scripted) -> Iterator[Batches]:
    made = Batches(model, most=3, limit=4)
    yield made
    made.abort()
    model.go.release(100)
    made.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def _text(batches: Batches, prompt: str) -> str:
    return "".join(piece.text for piece in batches.answer(prompt, PARAMS))


def _healthy(batches: Batches) -> bool:
    return batches.healthy


def _held(batches: Batches, model: Scripted, pool: ThreadPoolExecutor, words: int = 1) -> Future[str]:
    """A request that runs and waits before its first token."""
    future = pool.submit(_text, batches, "hold" + " a" * (words - 1))
    assert model.running.acquire(timeout=30)
    return future


def test_an_answer_comes_piece_by_piece(batches: Batches) -> None:
    pieces = list(batches.answer("a b c", PARAMS))
    assert [piece.text for piece in pieces] == ["a", " b", " c"]
    assert pieces[-1].completion is not None


def test_what_waits_runs_together(batches: Batches, model: Scripted, pool: ThreadPoolExecutor) -> None:
    first = _held(batches, model, pool)
    others = [pool.submit(_text, batches, prompt) for prompt in ("a", "b c", "d", "e")]
    while batches._waiting.qsize() < 4:
        threading.Event().wait(0.01)
    model.go.release()
    assert first.result(30) == "hold"
    assert sorted(other.result(30) for other in others) == ["a", "b c", "d", "e"]
    assert [len(batch) for batch in model.batches] == [1, 3, 1]


def test_a_request_that_is_refused_harms_no_other(batches: Batches, model: Scripted, pool: ThreadPoolExecutor) -> None:
    first = _held(batches, model, pool)
    refused, good = pool.submit(_text, batches, "refuse"), pool.submit(_text, batches, "a b")
    model.go.release()
    with pytest.raises(RefusedError, match="128 tokens a row"):
        refused.result(30)
    assert (first.result(30), good.result(30)) == ("hold", "a b")


def test_a_full_queue_takes_no_more(batches: Batches, model: Scripted, pool: ThreadPoolExecutor) -> None:
    _held(batches, model, pool)
    waiting = [pool.submit(_text, batches, "a") for _ in range(4)]
    while batches._waiting.qsize() < 4:
        threading.Event().wait(0.01)
    with pytest.raises(Busy):
        next(batches.answer("b", PARAMS))
    model.go.release()
    assert [w.result(30) for w in waiting] == ["a"] * 4


def test_a_model_that_fails_answers_nobody_again(batches: Batches, model: Scripted, pool: ThreadPoolExecutor) -> None:
    first = _held(batches, model, pool)
    failing = [pool.submit(_text, batches, prompt) for prompt in ("fail", "a", "b", "c")]
    while batches._waiting.qsize() < 4:
        threading.Event().wait(0.01)
    assert _healthy(batches)
    model.go.release()
    assert first.result(30) == "hold"
    for future in failing:
        with pytest.raises(RankError, match="rank 1 ended"):
            future.result(30)
    with pytest.raises(RankError):
        next(batches.answer("later", PARAMS))
    assert not _healthy(batches)


def test_close_answers_what_was_taken(model: Scripted, pool: ThreadPoolExecutor) -> None:
    batches = Batches(model, most=3, limit=4)
    first = _held(batches, model, pool)
    second = pool.submit(_text, batches, "a b")
    while batches._waiting.empty():
        threading.Event().wait(0.01)
    closing = pool.submit(batches.close)
    model.go.release()
    closing.result(30)
    assert (first.result(30), second.result(30)) == ("hold", "a b")
    with pytest.raises(ServerStopped):
        next(batches.answer("later", PARAMS))


def test_abort_cuts_between_two_tokens(batches: Batches, model: Scripted, pool: ThreadPoolExecutor) -> None:
    pieces: list[TextPiece] = []

    def read() -> None:
        pieces.extend(batches.answer("hold a b c", PARAMS))

    reading = pool.submit(read)
    model.running.acquire()
    model.go.release()
    waiting = pool.submit(_text, batches, "a")
    batches.abort()
    model.go.release()
    with pytest.raises(ServerStopped):
        reading.result(30)
    with pytest.raises(ServerStopped):
        waiting.result(30)


def test_an_answer_that_nobody_reads_is_given_up(batches: Batches, model: Scripted) -> None:
    pieces = batches.answer("hold a b c d e f g", PARAMS)
    model.go.release(1)
    assert next(pieces).text == "hold"
    pieces.close()
    model.go.release(1)  # one more token is computed, then the model is free
    assert _text(batches, "x") == "x"


class Panic(BaseException):
    """An exception such as those of libraries in Rust: no Exception."""


class Broken(Scripted):
    """Fails with an exception that nobody foresaw: of the prompt "bad" when it is checked, of "fall" when it runs."""

    def check(self, prompt: str, params: GenerationParams) -> list[int]:
        if prompt == "bad":
            raise Panic(prompt)
        return super().check(prompt, params)

    def stream_batch(
        self, prompts: Sequence[Sequence[int]], params: Sequence[GenerationParams]
    ) -> Generator[tuple[int, TextPiece | LmiCompileError], None, None]:
        if any(self._prompts[ids[0]] == "fall" for ids in prompts):
            raise ZeroDivisionError
        yield from super().stream_batch(prompts, params)


@pytest.mark.parametrize("prompt", ["bad", "fall"])
def test_an_exception_that_nobody_foresaw_ends_its_request_only(pool: ThreadPoolExecutor, prompt: str) -> None:
    batches = Batches(Broken(), most=3, limit=4)
    with pytest.raises(InternalError, match="this is a bug in lmi-compile"):
        pool.submit(_text, batches, prompt).result(30)
    assert pool.submit(_text, batches, "a b").result(30) == "a b"
    assert batches.healthy
    batches.close()
