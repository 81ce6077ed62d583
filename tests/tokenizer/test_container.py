"""Files of a tokenizer in the form of the transformers of a container."""

from __future__ import annotations

import json
from typing import Any

import pytest

from compiler.errors import TokenizerError
from compiler.tokenizer.container import container_form
from tests.tokenizer import samples

PAIRS = samples.byte_level().encode()
"""tokenizer.json with merges as pairs, as tokenizers writes it since 0.20."""


def form(version: str, config: dict[str, Any], tokenizer: bytes = PAIRS) -> dict[str, Any]:
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": json.dumps(config).encode()}
    return {name: json.loads(data) for name, data in container_form(files, version).items()}


def test_merges_become_text_for_releases_that_know_no_pairs() -> None:
    from tokenizers import Tokenizer

    made = form("4.44.2", {})["tokenizer.json"]
    assert all(isinstance(merge, str) for merge in made["model"]["merges"])
    old, new = Tokenizer.from_str(PAIRS.decode()), Tokenizer.from_str(json.dumps(made))
    assert [old.encode(text).ids for text in samples.TEXTS] == [new.encode(text).ids for text in samples.TEXTS]
    assert "tokenizer.json" not in form("4.45.0", {})


def test_merges_with_blanks_have_no_older_form() -> None:
    found = json.loads(PAIRS)
    found["model"]["merges"][0] = ["a b", "c"]
    with pytest.raises(TokenizerError, match=r"transformers 4\.44\.2, which cannot read the merges"):
        form("4.44.2", {}, json.dumps(found).encode())


@pytest.mark.parametrize(
    ("version", "name", "expected"),
    [
        ("4.44.2", "TokenizersBackend", "PreTrainedTokenizerFast"),
        ("4.36.2", "Qwen2Tokenizer", "PreTrainedTokenizerFast"),
        ("4.44.2", "Qwen2Tokenizer", "Qwen2Tokenizer"),
        ("4.44.2", "LlamaTokenizerFast", "LlamaTokenizerFast"),
    ],
)
def test_a_class_that_the_release_lacks_becomes_the_generic_one(version: str, name: str, expected: str) -> None:
    config = {"tokenizer_class": name}
    assert form(version, config).get("tokenizer_config.json", config)["tokenizer_class"] == expected


def test_a_class_of_the_checkpoints_code_becomes_the_generic_one() -> None:
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own_code.OwnTokenizer", None]}}
    assert form("4.44.2", own)["tokenizer_config.json"] == {"tokenizer_class": "PreTrainedTokenizerFast"}


def test_a_class_of_the_checkpoints_code_without_tokenizer_json_is_refused() -> None:
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own_code.OwnTokenizer", None]}}
    files = {"tokenizer.model": b"", "tokenizer_config.json": json.dumps(own).encode()}
    with pytest.raises(TokenizerError, match=r"cannot read tokenizer\.model without the class `OwnTokenizer`"):
        container_form(files, "4.44.2")


def test_listed_special_tokens_get_the_key_of_transformers_4() -> None:
    made = form("4.51.3", {"extra_special_tokens": ["<a>"], "additional_special_tokens": ["<b>"]})
    assert made["tokenizer_config.json"] == {"additional_special_tokens": ["<b>", "<a>"]}


def test_files_that_the_release_reads_stay_as_they_are() -> None:
    assert form("5.2.0", {"tokenizer_class": "TokenizersBackend"}) == {}
    assert form("4.51.3", {"tokenizer_class": "LlamaTokenizerFast"}) == {}
