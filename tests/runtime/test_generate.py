"""The Python API on eager segments in float32: batches, streams, limits, and transformers as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compiler.errors import InternalError, RefusedError, TokenizerError, UsageError
from compiler.runtime.ends import end_ids
from compiler.runtime.generate import Model
from compiler.runtime.params import Completion, GenerationParams, TextPiece
from compiler.runtime.scheduler import Scheduler
from compiler.tokenizer.load import load_tokenizer
from tests import reference
from tests.runtime.eager import LIMITS, engine
from tests.tiny import VOCAB

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of one token, longer than a chunk of prefill, of exactly a chunk, and short.
PROMPTS = ["x", "a prompt that is longer than one chunk", "sixteen letters!", "short"]
SAMPLED = GenerationParams(max_new_tokens=12, temperature=1.0, top_k=50, seed=11, repetition_penalty=1.2)


@pytest.fixture(scope="module")
def open_model(tiny_checkpoint: Callable[[str], Path]) -> Iterator[Callable[[str], Model]]:
    """`open_model(case)`: the model of a tiny checkpoint on one rank, made once."""
    models: dict[str, Model] = {}

    def opened(case: str) -> Model:
        if case not in models:
            folder = tiny_checkpoint(case)
            models[case] = Model(engine(folder), LIMITS, VOCAB, load_tokenizer(folder), end_ids(folder))
        return models[case]

    yield opened
    for model in models.values():
        model.close()


@pytest.fixture
def model(open_model: Callable[[str], Model]) -> Model:
    return open_model("llama")


def _reference(folder: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    return model


def _ids(completion: Completion) -> list[int]:
    return [token.id for token in completion.tokens]


@pytest.mark.parametrize("case", ["llama", "llama/tied", "mistral", "mixtral", "qwen2"])
def test_greedy_answers_and_their_log_probabilities_are_those_of_transformers(
    open_model: Callable[[str], Model], tiny_checkpoint: Callable[[str], Path], case: str
) -> None:
    import torch

    theirs = _reference(tiny_checkpoint(case))
    model = open_model(case)
    completions = model.generate(PROMPTS, GenerationParams(max_new_tokens=24, top_log_probs=2))
    for prompt, completion in zip(map(model.encode, PROMPTS), completions, strict=True):
        begin = len(prompt)
        ids = torch.tensor([prompt + _ids(completion)])
        with torch.no_grad():
            expected = theirs(ids).logits[0, begin - 1 : -1].log_softmax(-1).double().numpy()
        best = expected.argmax(-1)
        assert _ids(completion) == best.tolist()
        found = [token.log_prob for token in completion.tokens]
        assert found == pytest.approx(expected[range(len(best)), best].tolist(), abs=1e-4)
        assert [token.top[0] for token in completion.tokens] == [(t.id, t.log_prob) for t in completion.tokens]
        assert completion.log_prob == pytest.approx(sum(found))
        assert completion.prompt_tokens == begin


@pytest.mark.parametrize("params", [GenerationParams(max_new_tokens=12), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("case", ["llama", "mistral", "mixtral"])
def test_a_row_does_not_depend_on_its_neighbours(
    open_model: Callable[[str], Model], case: str, params: GenerationParams
) -> None:
    model = open_model(case)
    together = model.generate(PROMPTS, params)
    alone = [model.generate([prompt], params)[0] for prompt in PROMPTS]
    assert [_ids(c) for c in together] == [_ids(c) for c in alone]
    assert [c.text for c in together] == [c.text for c in alone]


def test_rows_of_different_length_leave_the_batch_one_by_one(model: Model) -> None:
    params = [GenerationParams(max_new_tokens=n) for n in (3, 9, 1, 6)]
    together = model.generate(PROMPTS, params)
    assert [len(c.tokens) for c in together] == [3, 9, 1, 6]
    alone = [model.generate([prompt], p)[0] for prompt, p in zip(PROMPTS, params, strict=True)]
    assert [_ids(c) for c in together] == [_ids(c) for c in alone]


def test_more_prompts_than_rows_join_as_others_end(model: Model) -> None:
    many = [*PROMPTS, "fifth", "sixth"]
    assert len(many) > LIMITS.max_batch
    params = GenerationParams(max_new_tokens=5)
    assert [_ids(c) for c in model.generate(many, params)] == [
        _ids(model.generate([prompt], params)[0]) for prompt in many
    ]


@pytest.mark.parametrize("tp", [2, 4])
def test_ranks_answer_as_one(model: Model, tiny_checkpoint: Callable[[str], Path], tp: int) -> None:
    params = GenerationParams(max_new_tokens=10)
    with Model(engine(tiny_checkpoint("llama"), tp), LIMITS, VOCAB, None, frozenset()) as split:
        prompts = [model.encode(prompt) for prompt in PROMPTS]
        assert [_ids(c) for c in split.generate(prompts, params)] == [_ids(c) for c in model.generate(PROMPTS, params)]
        assert np.allclose(split.logits(prompts[1]), model.logits(prompts[1]), atol=1e-4)


@pytest.mark.parametrize(
    "case", ["baichuan/v2-13b", "gpt2", "gptj", "qwen2_moe", "gemma3", "granite", "bloom", "falcon/alibi", "opt"]
)
def test_ranks_with_heads_of_their_own_compute_the_reference(tiny_checkpoint: Callable[[str], Path], case: str) -> None:
    import torch

    folder = tiny_checkpoint(case)
    ids = list(PROMPTS[1].encode())
    expected = reference.logits(folder, torch.tensor([ids]))[0].numpy()
    with Model(engine(folder, tp=2), LIMITS, VOCAB, None, frozenset()) as split:
        assert np.abs(split.logits(ids, decode_from=len(ids) - 3) - expected).max() < 1e-4


def test_logits_are_those_of_transformers_through_prefill_and_decode(
    model: Model, tiny_checkpoint: Callable[[str], Path]
) -> None:
    import torch

    ids = list(PROMPTS[1].encode())
    with torch.no_grad():
        expected = _reference(tiny_checkpoint("llama"))(torch.tensor([ids])).logits[0].numpy()
    for decode_from in (None, len(ids), 20, 1, 0):
        found = model.logits(ids, decode_from=decode_from)
        assert found.shape == (len(ids), VOCAB)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("params", [GenerationParams(max_new_tokens=20), SAMPLED], ids=["greedy", "sampled"])
def test_a_stream_brings_what_generate_returns(model: Model, params: GenerationParams) -> None:
    pieces = list(model.stream(PROMPTS[1], params))
    (whole,) = model.generate([PROMPTS[1]], params)
    streamed = pieces[-1].completion
    assert streamed is not None
    assert all(piece.completion is None for piece in pieces[:-1])
    assert "".join(piece.text for piece in pieces) == streamed.text == whole.text
    assert tuple(piece.token for piece in pieces) == streamed.tokens
    assert _ids(streamed) == _ids(whole)
    assert streamed.seconds_to_first_token > 0


def _first_answer(model: Model, prompt: str) -> Completion:
    return model.generate([prompt], GenerationParams(max_new_tokens=20, temperature=1.0, seed=3))[0]


def test_a_stop_sequence_ends_the_answer_and_is_cut_from_it(model: Model) -> None:
    free = _first_answer(model, "short")
    stop = free.text[5:8]
    assert len(stop) == 3
    params = GenerationParams(max_new_tokens=20, temperature=1.0, seed=3, stop=("never so", stop))
    (stopped,) = model.generate(["short"], params)
    assert stopped.finish_reason == "stop_sequence"
    assert stopped.text == free.text[: free.text.index(stop)]
    assert _ids(stopped) == _ids(free)[: len(stopped.tokens)]
    assert "".join(piece.text for piece in model.stream("short", params)) == stopped.text


def test_an_end_token_ends_the_answer_unless_it_is_ignored(
    tiny_checkpoint: Callable[[str], Path], model: Model
) -> None:
    free = _ids(_first_answer(model, "short"))
    ends = frozenset({free[4]})
    at = free.index(free[4])
    folder = tiny_checkpoint("llama")
    # One made-up end token, which the model is known to say.
    with Model(engine(folder), LIMITS, VOCAB, load_tokenizer(folder), ends) as ending:
        params: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.0, "seed": 3}
        (completion,) = ending.generate(["short"], GenerationParams(**params))
        assert completion.finish_reason == "eos_token"
        assert _ids(completion) == free[: at + 1]
        assert completion.tokens[-1].special
        assert completion.text == "".join(token.text for token in completion.tokens[:-1])
        (ignoring,) = ending.generate(["short"], GenerationParams(**params, ignore_eos=True))
        assert (_ids(ignoring), ignoring.finish_reason) == (free, "length")


def test_the_last_position_can_be_used_and_the_one_behind_it_cannot(model: Model) -> None:
    prompt = [1] * (LIMITS.max_positions - 3)
    assert len(model.generate([prompt], GenerationParams(max_new_tokens=3))[0].tokens) == 3
    with pytest.raises(RefusedError) as caught:
        model.generate([prompt], GenerationParams(max_new_tokens=4))
    assert "holds 128 tokens per row; 125 of the prompt and up to 4 new ones are 129" in caught.value.message
    with pytest.raises(RefusedError, match="holds 128"):
        model.logits([1] * 129)


def test_the_same_tokens_come_whatever_was_generated_before(model: Model) -> None:
    params = GenerationParams(max_new_tokens=6)
    first = model.generate(["again"], params)
    model.generate([[200] * 100, [201] * 90], params)
    assert _ids(model.generate(["again"], params)[0]) == _ids(first[0])


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], "at least one token"),
        ([VOCAB], f"token ids are 0 to {VOCAB - 1}; found {VOCAB}"),
        ([-1, 3], "found -1"),
    ],
)
def test_prompts_that_are_none_are_refused(model: Model, prompt: Sequence[int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        model.generate([prompt])


def test_one_prompt_in_place_of_a_list_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="expected a list of prompts"):
        model.generate("text")


def test_without_a_tokenizer_ids_work_and_text_does_not(tiny_checkpoint: Callable[[str], Path], model: Model) -> None:
    with Model(engine(tiny_checkpoint("llama")), LIMITS, VOCAB, None, frozenset()) as bare:
        params = GenerationParams(max_new_tokens=3)
        (completion,) = bare.generate([model.encode("short")], params)
        assert _ids(completion) == _ids(model.generate(["short"], params)[0])
        assert completion.text == ""
        with pytest.raises(TokenizerError, match="has no tokenizer"):
            bare.generate(["short"])
        with pytest.raises(TokenizerError, match="stop sequences are text"):
            bare.generate([[1]], GenerationParams(stop=("a",)))


def test_a_second_generation_waits_for_no_one_and_is_refused(model: Model) -> None:
    stream = model.stream("short", GenerationParams(max_new_tokens=5))
    next(stream)
    with pytest.raises(UsageError, match="another generation"):
        model.generate(["short"])
    stream.close()  # type: ignore[attr-defined]  # it is a generator; the API promises an iterator
    assert model.generate(["short"], GenerationParams(max_new_tokens=1))


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
    alone = {i: _ids(model.generate([prompt], params)[0]) for i, prompt in enumerate(PROMPTS)}
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
    expected = {i: _ids(model.generate([prompt], params)[0]) for i, prompt in enumerate(PROMPTS)}
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
    expected = _ids(model.generate(["short"], params)[0])
    with model.scheduler() as scheduler:
        broken, sound = model.row(0, "x", params), model.row(1, "short", params)
        monkeypatch.setattr(broken, "advance", lambda _: 1 // 0)
        scheduler.add(broken)
        scheduler.add(sound)
        events = scheduler.step()
        assert [type(event) for row, event in events if row is broken] == [InternalError]
        ids = [event.token.id for row, event in events if row is sound and isinstance(event, TextPiece)]
        assert ids + _finish(scheduler)[1] == expected


def test_the_log_probabilities_of_a_prompt_are_those_of_transformers(
    model: Model, tiny_checkpoint: Callable[[str], Path]
) -> None:
    import torch

    ids = model.encode(PROMPTS[1])
    with torch.no_grad():
        logits = _reference(tiny_checkpoint("llama"))(torch.tensor([ids])).logits[0].log_softmax(-1).double().numpy()
    params = GenerationParams(max_new_tokens=2, prompt_log_probs=True)
    completion, other = model.generate([PROMPTS[1], "short"], params)
    assert len(ids) > LIMITS.prefill_chunk
    assert completion.prompt_log_probs == pytest.approx(logits[range(len(ids) - 1), ids[1:]].tolist(), abs=1e-4)
    assert len(other.prompt_log_probs) == len(model.encode("short")) - 1


def test_an_end_token_does_not_come_before_the_least_number_of_tokens(
    tiny_checkpoint: Callable[[str], Path], model: Model
) -> None:
    free = _ids(model.generate(["short"], GenerationParams(max_new_tokens=20))[0])
    folder = tiny_checkpoint("llama")
    with Model(engine(folder), LIMITS, VOCAB, load_tokenizer(folder), frozenset({free[0]})) as ending:
        (early,) = ending.generate(["short"], GenerationParams(max_new_tokens=20))
        (late,) = ending.generate(["short"], GenerationParams(max_new_tokens=20, min_new_tokens=5))
    assert len(early.tokens) == 1
    assert len(late.tokens) > 5
    assert free[0] not in _ids(late)[:5]
