"""The tiny checkpoints that other tests stand on are what they say they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer

import recipes
from benchmarks.testbed.text import BOS, EOS, HELD_OUT, PAD, byte_tokenizer, paragraphs, train_tokenizer
from compiler.errors import ParallelError
from compiler.model.config import ModelConfig
from compiler.model.parallel import check_parallel
from tests.tiny import TINY, model_config, recipe_of, write_checkpoint
from tests.tiny_training import sized, write_trained

Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module", params=["bytes", "learnt"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return byte_tokenizer() if request.param == "bytes" else train_tokenizer(paragraphs()[:500], 700)


def _tp_values(config: ModelConfig) -> set[int]:
    possible = set()
    for tp in (1, 2, 4, 8):
        try:
            check_parallel(config, tp)
        except ParallelError:
            continue
        possible.add(tp)
    return possible


def test_every_recipe_has_a_case_and_every_case_a_recipe() -> None:
    assert {recipe_of(case) for case in TINY} == set(recipes.available())


@pytest.mark.parametrize("recipe", sorted({recipe_of(case) for case in TINY}))
def test_a_case_of_each_recipe_splits_over_1_2_4_and_8_ranks(recipe: str) -> None:
    assert _tp_values(model_config(recipe)) == {1, 2, 4, 8}
    assert _tp_values(model_config(recipe, **sized(recipe))) == {1, 2, 4, 8}


def test_one_case_refuses_even_splits() -> None:
    assert _tp_values(model_config("llama/three-kv-heads")) == {1}


@pytest.mark.parametrize("case", TINY)
def test_a_trained_size_keeps_what_a_case_is_there_for(case: str) -> None:
    tiny, trained = model_config(case), model_config(case, **sized(case))
    assert trained.vocab > tiny.vocab
    assert trained.layers == 4
    same = ("heads", "kv_heads", "norm", "position", "tied", "head", "qkv_bias", "experts", "activation")
    assert {name: getattr(trained, name) for name in same} == {name: getattr(tiny, name) for name in same}
    assert trained.rotary_dim <= trained.head_dim


@pytest.mark.parametrize("case", TINY)
def test_no_parameter_is_trivial(case: str, tiny_checkpoint: Checkpoint) -> None:
    tensors = load_file(tiny_checkpoint(case) / "model.safetensors")
    for name, tensor in tensors.items():
        spread = tensor.float().std().item()
        assert spread > 0.01, f"{name} is all one value"


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    one, two, other = (
        write_checkpoint("mixtral", tmp_path / name, seed) for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    names = sorted(path.name for path in one.iterdir())
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    assert [(two / name).read_bytes() for name in names] == [(one / name).read_bytes() for name in names]
    assert (other / "model.safetensors").read_bytes() != (one / "model.safetensors").read_bytes()


def test_shards_hold_each_tensor_of_the_single_file_once(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    files = sorted(write_checkpoint("llama", tmp_path, shards=3).glob("*.safetensors"))
    assert len(files) == 3
    dealt = [(name, tensor) for file in files for name, tensor in load_file(file).items()]
    whole = load_file(tiny_checkpoint("llama") / "model.safetensors")
    assert sorted(name for name, _ in dealt) == sorted(whole)
    assert all(tensor.equal(whole[name]) for name, tensor in dealt)


@settings(deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_tokenizers_give_back_every_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_a_character_can_span_tokens_and_its_parts_decode_to_a_replacement(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🤖", add_special_tokens=False).ids
    assert len(ids) == 4
    assert [tokenizer.decode(ids[:n]) for n in (1, 2, 3, 4)] == ["\N{REPLACEMENT CHARACTER}"] * 3 + ["🤖"]


def test_special_tokens_come_last_and_encoding_begins_with_bos(tokenizer: Tokenizer) -> None:
    last = tokenizer.get_vocab_size() - 1
    assert [tokenizer.token_to_id(token) for token in (BOS, EOS, PAD)] == [last - 2, last - 1, last]
    assert tokenizer.encode("a").ids[0] == last - 2


def test_byte_tokens_are_the_bytes() -> None:
    text = "".join(map(chr, range(0x250))) + "🤖"
    assert bytes(byte_tokenizer().encode(text, add_special_tokens=False).ids) == text.encode()


@pytest.mark.parametrize("case", ["llama", "internlm2"])  # one of transformers, one of tests.reference
def test_training_lowers_held_out_perplexity(tmp_path: Path, case: str) -> None:
    learnt = write_trained(case, tmp_path, steps=20)
    assert learnt.after < learnt.before / 1.5
    assert (tmp_path / "model.safetensors").exists()


def test_held_out_text_is_not_trained_on() -> None:
    texts = paragraphs()
    assert len(texts) > 20 * HELD_OUT
    assert not set(texts[::HELD_OUT]) & {text for i, text in enumerate(texts) if i % HELD_OUT}
