"""A packed tokenizer, loaded by transformers' AutoTokenizer in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.tokenizer.fresh import fresh_notes
from compiler.tokenizer.load import converted, vocabulary_in
from tests.tokenizer import samples
from tests.tokenizer.samples import write_config

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(samples.byte_level())
    write_config(folder, bos_token="<s>", **settings)
    return folder


def test_a_packed_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    added = {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<|user|>"]}
    assert fresh_notes(write(tmp_path, **added)) == []


def test_converted_ranks_give_the_same_ids(tmp_path: Path) -> None:
    source = samples.write_qwen(tmp_path / "source")
    vocabulary = vocabulary_in(source)
    assert vocabulary is not None
    packed = tmp_path / "packed"
    packed.mkdir()
    for name, data in converted(source, vocabulary).items():
        (packed / name).write_bytes(data)
    assert fresh_notes(packed) == []


def test_other_ids_are_noted_with_both(tmp_path: Path) -> None:
    """GemmaTokenizer of transformers 5 splits texts by itself, whatever tokenizer.json says."""
    notes = fresh_notes(write(tmp_path, tokenizer_class="GemmaTokenizer", unk_token="<unk>"))
    assert 0 < len(notes) <= 3
    assert "encodes 'The harbor was quiet' of the packed tokenizer as [" in notes[0]
    assert "its files say [" in notes[0]


def test_a_class_that_cannot_be_loaded_is_noted_with_the_reason(tmp_path: Path) -> None:
    own = {"AutoTokenizer": ["own_code.OwnTokenizer", None]}
    (note,) = fresh_notes(write(tmp_path, tokenizer_class="OwnTokenizer", auto_map=own))
    assert note.startswith("transformers cannot load the packed tokenizer by AutoTokenizer: ")
