"""Findings on a tokenizer at plan time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from compiler.errors import TokenizerError
from compiler.tokenizer.notes import tokenizer_notes
from tests.tokenizer import samples
from tests.tokenizer.samples import write_config

if TYPE_CHECKING:
    from pathlib import Path

SIZE = len(json.loads(samples.byte_level())["model"]["vocab"])


def notes(folder: Path, text: str, container: str | None = None, **settings: Any) -> tuple[str, ...]:
    (folder / "tokenizer.json").write_text(text)
    write_config(folder, bos_token="<s>", eos_token="</s>", **settings)
    return tokenizer_notes(folder, SIZE, container)


def test_a_tokenizer_that_all_releases_read_alike_has_no_notes(tmp_path: Path) -> None:
    assert notes(tmp_path, samples.byte_level(), tokenizer_class="PreTrainedTokenizerFast") == ()
    bos = samples.with_bos(samples.byte_level())
    assert notes(tmp_path, bos, tokenizer_class="LlamaTokenizerFast", add_bos_token=True) == ()


@pytest.mark.parametrize(
    ("bos", "settings", "container", "expected"),
    [
        (False, {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True}, None, ("without", "with", "4.53.3")),
        (False, {"tokenizer_class": "LlamaTokenizerFast"}, "4.44.2", ("without", "with", "4.44.2 of the image")),
        (True, {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False}, None, ("with", "without", "4.53.3")),
        (True, {"tokenizer_class": "GPTNeoXTokenizerFast"}, "4.44.2", ("with", "without", "4.44.2 of the image")),
    ],
)
def test_bos_that_another_release_adds_or_leaves_out_is_noted(
    tmp_path: Path, bos: bool, settings: dict[str, Any], container: str | None, expected: tuple[str, str, str]
) -> None:
    text = samples.with_bos(samples.byte_level()) if bos else samples.byte_level()
    (note,) = notes(tmp_path, text, container, **settings)
    here, there, who = expected
    assert note.startswith(f"prompts begin {here} `<s>` here")
    assert f"{there} it in transformers {who}" in note


@pytest.mark.parametrize("container", ["4.38.1", "5.2.0"])
def test_a_release_that_follows_tokenizer_json_is_not_noted(tmp_path: Path, container: str) -> None:
    text = samples.with_bos(samples.byte_level())
    assert notes(tmp_path, text, container, tokenizer_class="GPTNeoXTokenizerFast") == ()


def test_eos_is_compared_too(tmp_path: Path) -> None:
    own: dict[str, Any] = {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False, "add_eos_token": True}
    (note,) = notes(tmp_path, samples.byte_level(), **own)
    assert note.startswith("prompts end without `</s>` here")


def test_bos_by_default_of_a_sentencepiece_model_is_noted(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(samples.sentencepiece_model())
    (note,) = tokenizer_notes(tmp_path, 512, None)
    assert note.startswith("prompts begin with `<s>` here, the default of transformers 4")
    write_config(tmp_path, add_bos_token=True)
    assert tokenizer_notes(tmp_path, 512, None) == ()


def test_added_tokens_beyond_the_model_are_counted_with_numbers(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, samples.byte_level(), pad_token="<pad>")
    assert note.startswith(f"1 added token(s) have ids beyond the model's {SIZE} embeddings: `<pad>` ({SIZE});")


def test_a_regular_vocabulary_beyond_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(samples.byte_level())
    with pytest.raises(TokenizerError, match=rf"ids 0 to {SIZE - 1} .*embeddings for 0 to 199"):
        tokenizer_notes(tmp_path, 200, None)


def test_code_that_is_not_run_is_named(tmp_path: Path) -> None:
    own: dict[str, Any] = {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": [None, "org/repo--own_code.OwnTokenizer"]},
    }
    (note,) = notes(tmp_path, samples.byte_level(), **own)
    assert "`OwnTokenizer` in own_code.py) is not run: ids are those of tokenizer.json alone" in note


def test_a_tokenizer_that_the_image_cannot_load_is_refused_in_a_plan(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(samples.sentencepiece_model())
    own = {"AutoTokenizer": ["own_code.OwnTokenizer", None]}
    write_config(tmp_path, tokenizer_class="OwnTokenizer", add_bos_token=True, auto_map=own)
    with pytest.raises(TokenizerError, match=r"transformers 4\.44\.2 and runs no code"):
        tokenizer_notes(tmp_path, 512, "4.44.2")
    assert len(tokenizer_notes(tmp_path, 512, None)) == 1


def test_a_folder_without_a_known_vocabulary_names_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "own.tiktoken").write_text("AA== 0\n")
    write_config(tmp_path, auto_map={"AutoTokenizer": ["own_code.OwnTokenizer", None]})
    (note,) = tokenizer_notes(tmp_path, 512, None)
    assert "no tokenizer that is read (found own.tiktoken, tokenizer_config.json, read by own_code.py alone)" in note
    assert "--tokenizer DIR" in note
