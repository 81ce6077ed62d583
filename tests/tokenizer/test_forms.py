"""Tokenizers without a tokenizer.json, and tokens that tokenizer.json lacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from compiler.errors import TokenizerError
from compiler.tokenizer.load import load_tokenizer
from tests.tokenizer import samples
from tests.tokenizer.samples import TEXTS, write_config

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.tokenizer.tokenizer import Tokenizer

USER = {"content": "<|user|>", **samples.EXTRA}
SIZE = len(json.loads(samples.byte_level())["model"]["vocab"])


def loaded(folder: Path) -> Tokenizer:
    found = load_tokenizer(folder)
    assert found is not None
    return found


def by_transformers(folder: Path, texts: tuple[str, ...]) -> list[list[int]]:
    """Ids by transformers' AutoTokenizer, in a process of its own without a network."""
    code = (
        "import json, sys\n"
        "from transformers import AutoTokenizer\n"
        "made = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(json.dumps([made.encode(text) for text in json.load(sys.stdin)]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    found: list[list[int]] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"added_tokens_decoder": {str(SIZE): USER}}},
        {"tokenizer_config.json": {"additional_special_tokens": ["<|user|>"]}},
        {"tokenizer_config.json": {}, "added_tokens.json": {"<|user|>": SIZE}},
        {"special_tokens_map.json": {"additional_special_tokens": [{"content": "<|user|>"}]}},
        {"tokenizer_config.json": {"extra_special_tokens": ["<|user|>"]}},
    ],
)
def test_a_token_outside_of_tokenizer_json_is_one_id(tmp_path: Path, files: dict[str, dict[str, Any]]) -> None:
    (tmp_path / "tokenizer.json").write_text(samples.byte_level())
    for name, content in files.items():
        write_config(tmp_path, name, **content)
    found = loaded(tmp_path)
    assert found.encode("low<|user|>low") == [*found.encode("low"), SIZE, *found.encode("low")]
    assert found.extra[SIZE] == "<|user|>"


def test_added_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(samples.with_bos(samples.byte_level()))
    write_config(
        tmp_path,
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token="<s>",
        pad_token="<pad>",
        added_tokens_decoder={str(SIZE): USER, str(SIZE + 1): {**USER, "content": "<|end|>", "rstrip": True}},
    )
    texts = (*TEXTS, "low<|user|>the", "<s>low", "a <|end|>  b", "<pad><unk>")
    assert [loaded(tmp_path).encode(text) for text in texts] == by_transformers(tmp_path, texts)


def test_an_id_that_tokenizers_give_otherwise_is_noted(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(samples.byte_level())
    write_config(tmp_path, added_tokens_decoder={"999": USER})
    assert loaded(tmp_path).notes == (f"`<|user|>` has the id {SIZE}; tokenizer_config.json says 999",)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_sentencepiece_model_is_read_as_sentencepiece_does(tmp_path: Path, kind: str) -> None:
    from sentencepiece import SentencePieceProcessor

    data = samples.sentencepiece_model(kind)
    (tmp_path / "tokenizer.model").write_bytes(data)
    write_config(tmp_path, tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", add_bos_token=True)
    model, found = SentencePieceProcessor(model_proto=data), loaded(tmp_path)
    for text in TEXTS:
        assert found.encode(text) == [1, *model.encode(text)]
        assert found.decode(found.encode(text)) == model.decode(model.encode(text))
    assert found.special(1) == "<s>"


@pytest.mark.parametrize(("legacy", "blank"), [(True, True), (False, False)])
def test_text_behind_a_special_token_begins_with_a_blank_only_in_legacy_form(
    tmp_path: Path, legacy: bool, blank: bool
) -> None:
    from sentencepiece import SentencePieceProcessor

    data = samples.sentencepiece_model()
    (tmp_path / "tokenizer.model").write_bytes(data)
    write_config(tmp_path, add_bos_token=False, legacy=legacy)
    pieces = SentencePieceProcessor(model_proto=data).id_to_piece(loaded(tmp_path).encode("</s>low"))
    assert pieces[0] == "</s>"
    assert "".join(pieces[1:]) == ("▁low" if blank else "low")


@pytest.mark.parametrize(
    ("settings", "edges"),
    [
        ({}, (True, False)),
        ({"add_bos_token": False}, (False, False)),
        ({"add_bos_token": False, "add_eos_token": True}, (False, True)),
    ],
)
def test_bos_and_eos_of_a_sentencepiece_model_follow_the_settings(
    tmp_path: Path, settings: dict[str, Any], edges: tuple[bool, bool]
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(samples.sentencepiece_model())
    write_config(tmp_path, **settings)
    ids = loaded(tmp_path).encode("the tower")
    assert (ids[0] == 1, ids[-1] == 2) == edges


def test_qwens_ranks_give_the_ids_of_byte_pair_encoding(tmp_path: Path) -> None:
    found, tokens = loaded(samples.write_qwen(tmp_path)), samples.ranks()
    word = "".join(" lowest")
    assert found.encode(word) == samples.joined(word.encode(), tokens)
    assert found.encode("low<|im_end|>")[-1] == len(tokens) + 2
    for text in TEXTS:
        assert found.decode(found.encode(text)) == text
    assert found.encode("Z\u0075\u0308rich") == found.encode("Zürich")  # composed: NFC


def test_tekken_has_its_special_tokens_first(tmp_path: Path) -> None:
    found, tokens = loaded(samples.write_tekken(tmp_path)), samples.ranks()
    assert found.encode(" lowest") == [1, *(20 + rank for rank in samples.joined(b" lowest", tokens))]
    assert (found.special(1), found.special(2), found.special(19)) == ("<s>", "</s>", "<SPECIAL_19>")
    assert found.regular == len(tokens) + 20
    assert found.decode(found.encode("日本 and 👩‍👩‍👧")) == "日本 and 👩‍👩‍👧"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "tekken.json", "qwen.tiktoken"])
def test_a_git_lfs_pointer_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 499723\n")
    with pytest.raises(TokenizerError, match=rf"{re.escape(name)} is a git-lfs pointer of \d+ bytes") as caught:
        load_tokenizer(tmp_path)
    assert "git lfs pull" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.model", b"<html>not found</html>"),
        ("tokenizer.model", b""),
        ("tekken.json", b'{"config": {}}'),
        ("tekken.json", b"[]"),
        ("qwen.tiktoken", b"AA== 1\n"),
        ("qwen.tiktoken", b"no base64\n"),
    ],
)
def test_a_damaged_vocabulary_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=re.escape(name)):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer_class", 3),
        ("bos_token", ["<s>"]),
        ("add_bos_token", "yes"),
        ("added_tokens_decoder", ["<s>"]),
        ("added_tokens_decoder", {"x": {"content": "<s>"}}),
        ("added_tokens_decoder", {"5": {"text": "<s>"}}),
        ("additional_special_tokens", "<s>"),
    ],
)
def test_settings_of_the_wrong_kind_are_named(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "tokenizer.json").write_text(samples.byte_level())
    write_config(tmp_path, **{key: value})
    with pytest.raises(TokenizerError, match=rf"tokenizer_config\.json: expected .*`{key}`.*; found"):
        load_tokenizer(tmp_path)


def test_settings_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + samples.byte_level().encode())
    settings = json.dumps({"additional_special_tokens": ["<|user|>"]})
    (tmp_path / "tokenizer_config.json").write_bytes(settings.encode("utf-16"))
    assert len(loaded(tmp_path).encode("<|user|>")) == 1
