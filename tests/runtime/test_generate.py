"""The Python API on eager segments in float32: batches, streams, limits, and transformers as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compiler.errors import RefusedError, TokenizerError, UsageError
from compiler.runtime.generate import Model
from compiler.runtime.params import Completion, GenerationParams
from compiler.tokenizer.load import load_tokenizer
from tests import reference
from tests.runtime.answers import PROMPTS, SAMPLED, ids_of
from tests.runtime.eager import LIMITS, engine
from tests.tiny import VOCAB

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _reference(folder: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    return model


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
        ids = torch.tensor([prompt + ids_of(completion)])
        with torch.no_grad():
            expected = theirs(ids).logits[0, begin - 1 : -1].log_softmax(-1).double().numpy()
        best = expected.argmax(-1)
        assert ids_of(completion) == best.tolist()
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
    assert [ids_of(c) for c in together] == [ids_of(c) for c in alone]
    assert [c.text for c in together] == [c.text for c in alone]


def test_rows_of_different_length_leave_the_batch_one_by_one(model: Model) -> None:
    params = [GenerationParams(max_new_tokens=n) for n in (3, 9, 1, 6)]
    together = model.generate(PROMPTS, params)
    assert [len(c.tokens) for c in together] == [3, 9, 1, 6]
    alone = [model.generate([prompt], p)[0] for prompt, p in zip(PROMPTS, params, strict=True)]
    assert [ids_of(c) for c in together] == [ids_of(c) for c in alone]


def test_more_prompts_than_rows_join_as_others_end(model: Model) -> None:
    many = [*PROMPTS, "fifth", "sixth"]
    assert len(many) > LIMITS.max_batch
    params = GenerationParams(max_new_tokens=5)
    assert [ids_of(c) for c in model.generate(many, params)] == [
        ids_of(model.generate([prompt], params)[0]) for prompt in many
    ]


@pytest.mark.parametrize("tp", [2, 4])
def test_ranks_answer_as_one(model: Model, tiny_checkpoint: Callable[[str], Path], tp: int) -> None:
    params = GenerationParams(max_new_tokens=10)
    with Model(engine(tiny_checkpoint("llama"), tp), LIMITS, VOCAB, None, frozenset()) as split:
        prompts = [model.encode(prompt) for prompt in PROMPTS]
        assert [ids_of(c) for c in split.generate(prompts, params)] == [
            ids_of(c) for c in model.generate(PROMPTS, params)
        ]
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
    assert ids_of(streamed) == ids_of(whole)
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
    assert ids_of(stopped) == ids_of(free)[: len(stopped.tokens)]
    assert "".join(piece.text for piece in model.stream("short", params)) == stopped.text


def test_an_end_token_ends_the_answer_unless_it_is_ignored(
    tiny_checkpoint: Callable[[str], Path], model: Model
) -> None:
    free = ids_of(_first_answer(model, "short"))
    ends = frozenset({free[4]})
    at = free.index(free[4])
    folder = tiny_checkpoint("llama")
    # One made-up end token, which the model is known to say.
    with Model(engine(folder), LIMITS, VOCAB, load_tokenizer(folder), ends) as ending:
        params: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.0, "seed": 3}
        (completion,) = ending.generate(["short"], GenerationParams(**params))
        assert completion.finish_reason == "eos_token"
        assert ids_of(completion) == free[: at + 1]
        assert completion.tokens[-1].special
        assert completion.text == "".join(token.text for token in completion.tokens[:-1])
        (ignoring,) = ending.generate(["short"], GenerationParams(**params, ignore_eos=True))
        assert (ids_of(ignoring), ignoring.finish_reason) == (free, "length")


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
    assert ids_of(model.generate(["again"], params)[0]) == ids_of(first[0])


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
        assert ids_of(completion) == ids_of(model.generate(["short"], params)[0])
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
    free = ids_of(model.generate(["short"], GenerationParams(max_new_tokens=20))[0])
    folder = tiny_checkpoint("llama")
    with Model(engine(folder), LIMITS, VOCAB, load_tokenizer(folder), frozenset({free[0]})) as ending:
        (early,) = ending.generate(["short"], GenerationParams(max_new_tokens=20))
        (late,) = ending.generate(["short"], GenerationParams(max_new_tokens=20, min_new_tokens=5))
    assert len(early.tokens) == 1
    assert len(late.tokens) > 5
    assert free[0] not in ids_of(late)[:5]
