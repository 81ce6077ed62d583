from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.testbed.text import byte_tokenizer
from compiler.errors import ArtifactError, TokenizerError
from compiler.runtime.ends import end_ids
from compiler.tokenizer.load import load_tokenizer

TEXT = "Zürich, 日本 and 👩‍👩‍👧"


def test_text_survives_and_special_tokens_are_known_by_name(tmp_path: Path) -> None:
    made = byte_tokenizer()
    # What training leaves in the file must not cut prompts.
    made.enable_truncation(4)
    made.enable_padding(length=50)
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    ids = tokenizer.encode(TEXT)
    assert ids == [256, *TEXT.encode()]
    assert tokenizer.decode([*ids, 257]) == TEXT
    assert (tokenizer.special(257), tokenizer.special(65)) == ("</s>", None)


def test_an_older_format_is_read_without_code_of_the_checkpoint(tmp_path: Path) -> None:
    vocabulary = {"l": 0, "o": 1, "w": 2, "lo": 3, "low": 4, "<|endoftext|>": 5}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nl o\nlo w\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.encode("lowlo") == [4, 3]
    assert tokenizer.decode([4, 3]) == "lowlo"


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert load_tokenizer(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "from the future"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read by tokenizers \d"):
        load_tokenizer(tmp_path)


def test_a_format_that_only_its_own_code_reads_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"a format of its own")
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own_code.OwnTokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    (tmp_path / "own_code.py").write_text("raise SystemExit('code of a checkpoint was run')\n")
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(tmp_path)
    assert "`--tokenizer DIR`" in caught.value.hint


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config.json": {"eos_token_id": 2}, "config.json": {"eos_token_id": 9}}, {2}),
        ({"generation_config.json": {"eos_token_id": [2, 7]}}, {2, 7}),
        ({"generation_config.json": {}, "config.json": {"eos_token_id": 0}}, {0}),
        ({"config.json": {"eos_token_id": None}}, set()),
        ({"config.json": {"text_config": {"eos_token_id": 5}}}, {5}),
        ({}, set()),
    ],
)
def test_end_tokens_are_a_number_a_list_or_absent(
    tmp_path: Path, files: dict[str, dict[str, Any]], expected: set[int]
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert end_ids(tmp_path) == expected


def test_a_damaged_generation_config_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("[1]")
    with pytest.raises(ArtifactError, match="expected a JSON object"):
        end_ids(tmp_path)
