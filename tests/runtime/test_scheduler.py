"""Rows that join and leave a running batch, on eager segments in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from compiler.errors import InternalError
from compiler.runtime.generate import Model
from compiler.runtime.params import GenerationParams, TextPiece
from compiler.runtime.scheduler import Scheduler
from tests.runtime.answers import PROMPTS, SAMPLED, ids_of


def _finish(scheduler: Scheduler) -> dict[int, list[int]]:
    """Token ids of all rows by index, until the scheduler is idle."""
    ids: dict[int, list[int]] = {}
    while not scheduler.idle:
        for row, event in scheduler.step():
            assert isinstance(event, TextPiece)
            ids.setdefault(row.index, []).append(event.token.id)
    return ids


@pytest.mark.parametrize("params", [GenerationParams(max_new_tokens=12), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("case", ["llama", "mistral", "mixtral"])
def test_a_row_that_joins_a_running_batch_answers_as_alone(
    open_model: Callable[[str], Model], case: str, params: GenerationParams
) -> None:
    model = open_model(case)
    alone = {i: ids_of(model.generate([prompt], params)[0]) for i, prompt in enumerate(PROMPTS)}
    found: dict[int, list[int]] = {}
    with model.scheduler() as scheduler:
        for i, prompt in enumerate(PROMPTS):
            scheduler.add(model.row(i, prompt, params))
            for _ in range(3):
                for row, event in scheduler.step():
                    assert isinstance(event, TextPiece)
                    found.setdefault(row.index, []).append(event.token.id)
        for index, ids in _finish(scheduler).items():
            found[index] += ids
    assert found == alone


def test_a_short_request_is_answered_while_a_long_one_runs(model: Model) -> None:
    long, short = GenerationParams(max_new_tokens=100, ignore_eos=True), GenerationParams(max_new_tokens=2)
    with model.scheduler() as scheduler:
        scheduler.add(model.row(0, "x", long))
        scheduler.step()
        scheduler.add(model.row(1, "short", short))
        events = [event for _ in range(3) for event in scheduler.step()]
        ended = [row.index for row, event in events if isinstance(event, TextPiece) and event.completion]
        assert ended == [1]
        assert not scheduler.idle


def test_a_long_prompt_does_not_hold_up_those_that_decode_or_come_after_it(model: Model) -> None:
    with model.scheduler() as scheduler:
        scheduler.add(model.row(0, "x", GenerationParams(max_new_tokens=40, ignore_eos=True)))
        scheduler.step()
        scheduler.add(model.row(1, [5] * 100, GenerationParams(max_new_tokens=1)))
        scheduler.add(model.row(2, "y", GenerationParams(max_new_tokens=1)))
        steps = [[row.index for row, _ in scheduler.step()] for _ in range(16)]
    passes = [one + other for one, other in zip(steps[::2], steps[1::2], strict=True)]
    assert all(0 in indices for indices in passes), "a token of the decoding row after every chunk"
    first = {index: next(i for i, indices in enumerate(passes) if index in indices) for index in (1, 2)}
    assert first[2] < first[1]


def test_a_row_can_be_removed_at_any_time(model: Model) -> None:
    params = GenerationParams(max_new_tokens=12)
    expected = {i: ids_of(model.generate([prompt], params)[0]) for i, prompt in enumerate(PROMPTS)}
    for passes in (0, 1, 2, 5):
        for index in range(len(PROMPTS)):
            found: dict[int, list[int]] = {}
            with model.scheduler() as scheduler:
                rows = [model.row(i, prompt, params) for i, prompt in enumerate(PROMPTS)]
                for row in rows:
                    scheduler.add(row)
                for _ in range(passes):
                    for row, event in scheduler.step():
                        assert isinstance(event, TextPiece)
                        found.setdefault(row.index, []).append(event.token.id)
                scheduler.remove(rows[index])
                scheduler.remove(rows[index])
                for i, ids in _finish(scheduler).items():
                    assert i != index
                    found[i] = found.get(i, []) + ids
                assert scheduler.running == scheduler.positions == 0
            assert {i: ids for i, ids in found.items() if i != index} == {
                i: ids for i, ids in expected.items() if i != index
            }


def test_a_fault_of_one_row_ends_that_row_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    params = GenerationParams(max_new_tokens=6)
    expected = ids_of(model.generate(["short"], params)[0])
    with model.scheduler() as scheduler:
        broken, sound = model.row(0, "x", params), model.row(1, "short", params)
        monkeypatch.setattr(broken, "advance", lambda _: 1 // 0)
        scheduler.add(broken)
        scheduler.add(sound)
        events = scheduler.step()
        assert [type(event) for row, event in events if row is broken] == [InternalError]
        ids = [event.token.id for row, event in events if row is sound and isinstance(event, TextPiece)]
        assert ids + _finish(scheduler)[1] == expected
