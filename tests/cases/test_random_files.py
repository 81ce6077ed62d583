"""Random bytes and random JSON in the small files of a checkpoint and in bodies of requests.

The outcome is a result or an error with a hint, never an exception that nothing foresees, and the server goes on.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import recipes
from compiler.errors import InternalError, LmiCompileError
from compiler.pipeline.located import plan_of
from compiler.pipeline.parts import tokenizer_parts
from compiler.pipeline.request import Ask, PlanRequest
from tests.cases.checkpoints import CONFIG, write, write_json
from tests.cases.serving import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.serve.running import Served

EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
INDEX = {
    "metadata": {"total_size": 1},
    "weight_map": {"model.norm.weight": "model.safetensors", "lm_head.weight": "model.safetensors"},
}
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "lstrip": False},
    "add_bos_token": True,
    "model_max_length": 512,
    "added_tokens_decoder": {"256": {"content": "<s>", "special": True}},
    "auto_map": {"AutoTokenizer": ["tokenization.Own", None]},
    "extra_special_tokens": {"a": "<a>"},
    "chat_template": "{{ messages }}",
}
GENERATION = {"eos_token_id": [257], "bos_token_id": 256, "temperature": 0.5, "transformers_version": "4.40"}
EXTRA = {
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 128},
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
    "layer_types": ["full_attention", "full_attention"],
    "sliding_window": 64,
    "use_sliding_window": True,
    "head_dim": 8,
    "attention_bias": False,
    "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True},
    "auto_map": {"AutoModelForCausalLM": "modeling.Own"},
    "text_config": {"model_type": "llama"},
}
KINDS = ("LlamaForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM", "Gemma2ForCausalLM", "GPT2LMHeadModel", "Nobody")

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**40), max_value=10**40)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["llama", "linear", "yarn", "default", "silu", "bfloat16", "full_attention", "\ud83d", "gptq"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


def changed(known: dict[str, Any]) -> st.SearchStrategy[Any]:
    """`known` with some values replaced, some inside of values, and some removed; or any value."""
    return st.one_of(_replaced(known), _inside(known), VALUES)


def _replaced(known: dict[str, Any]) -> st.SearchStrategy[Any]:
    changes = st.dictionaries(st.sampled_from(sorted(known)), VALUES, min_size=1, max_size=3)
    gone = st.sets(st.sampled_from(sorted(known)), max_size=2)
    return st.builds(
        lambda new, lost: {key: value for key, value in {**known, **new}.items() if key not in lost}, changes, gone
    )


def _inside(known: dict[str, Any]) -> st.SearchStrategy[Any]:
    nested = [(key, inner) for key, value in sorted(known.items()) if isinstance(value, dict) for inner in value]
    if not nested:
        return VALUES
    return st.builds(
        lambda at, value: {**known, at[0]: {**known[at[0]], at[1]: value}}, st.sampled_from(nested), VALUES
    )


def spelled(values: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """JSON in several encodings, JSON with some bytes cut off, and random bytes."""
    text = values.map(json.dumps)
    encoded = st.builds(
        lambda one, encoding: one.encode(encoding), text, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])
    )
    cut = st.builds(lambda one, length: one.encode()[: -length or None], text, st.integers(0, 20))
    return st.one_of(encoded, cut, st.binary(max_size=60), st.just(b'{"a":' * 20_000))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("random") / "model")


def _planned(folder: Path) -> None:
    """Plan the checkpoint, and read its tokenizer; any error but a bug is an outcome."""
    request = PlanRequest(model=str(folder), recipes=recipes, ask=Ask(dtype="float32"), cache=folder / "cache")
    outcome: LmiCompileError | None = None
    try:
        plan_of(request)
        tokenizer_parts(folder, None)
    except InternalError as error:
        raise error.__cause__ or error from None
    except LmiCompileError as error:
        outcome = error
    assert outcome is None or (outcome.message and outcome.hint), outcome


def _with(folder: Path, name: str, data: bytes) -> None:
    """Plan with a file of these bytes, and put the folder right again."""
    path = folder / name
    before = path.read_bytes() if path.exists() else None
    try:
        path.write_bytes(data)
        _planned(folder)
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


@EXAMPLES
@given(spelled(changed({**CONFIG, **EXTRA})))
def test_any_config(model: Path, data: bytes) -> None:
    _with(model, "config.json", data)


@EXAMPLES
@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(sorted({**CONFIG, **EXTRA})), VALUES, max_size=4))
def test_any_value_of_any_architecture(model: Path, kind: str, changes: dict[str, Any]) -> None:
    _with(model, "config.json", json.dumps({**CONFIG, "architectures": [kind], **changes}).encode())


@EXAMPLES
@given(spelled(changed(TOKENIZER)))
def test_any_tokenizer_config(model: Path, data: bytes) -> None:
    _with(model, "tokenizer_config.json", data)


@EXAMPLES
@given(spelled(changed(GENERATION)))
def test_any_generation_config(model: Path, data: bytes) -> None:
    _with(model, "generation_config.json", data)


@EXAMPLES
@given(spelled(changed(INDEX)))
def test_any_index(model: Path, data: bytes) -> None:
    weights = model / "model.safetensors"
    moved = weights.rename(model / "model-00001-of-00001.safetensors")
    try:
        _with(model, "model.safetensors.index.json", data.replace(b"model.safetensors", moved.name.encode()))
    finally:
        moved.rename(weights)


def test_the_unchanged_checkpoint_plans(model: Path) -> None:
    write_json(model / "generation_config.json", GENERATION)
    plan_of(PlanRequest(model=str(model), recipes=recipes, cache=model / "cache"))
    (model / "generation_config.json").unlink()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as made:
        yield made


PARAMETERS = {
    "max_new_tokens": 2, "do_sample": True, "temperature": 0.5, "top_k": 3, "top_p": 0.5, "seed": 1, "details": True,
    "stop_sequences": ["x"], "repetition_penalty": 1.1, "return_full_text": True, "ignore_eos_token": True,
}  # fmt: skip
BODY = {"inputs": "a b", "parameters": PARAMETERS, "stream": False}
CHAT = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "model": "tiny", "temperature": 0.5, "n": 1}
COMPLETION = {"prompt": "a", "max_tokens": 2, "stop": ["x"], "logprobs": 1, "echo": True}


@EXAMPLES
@given(spelled(st.one_of(changed(BODY), _replaced(CHAT), _replaced(COMPLETION), _inside(BODY))))
def test_any_body_of_a_request(server: Served, data: bytes) -> None:
    status, _, _ = server.post(data)
    assert status in (200, 400, 424), data


def test_the_server_answers_after_all_of_them(server: Served) -> None:
    assert server.get("/ping")[0] == 200
    assert server.post({"inputs": "a", "parameters": {"max_new_tokens": 2}})[0] == 200
