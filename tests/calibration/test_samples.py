from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compiler.calibration.samples import LEAST_TOKENS, read_samples
from compiler.errors import CalibrationError, TokenizerError
from compiler.storage.files.digest import sha256_file
from tests.tiny import VOCAB


@pytest.fixture
def tokenizer(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("llama")


def _lines(path: Path, *objects: object) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def test_the_text_of_this_project(tokenizer: Path) -> None:
    samples = read_samples(None, tokenizer, vocab=VOCAB)
    assert samples.tokens > 10_000
    assert {one.size for one in samples.ids[:-1]} == {512}
    assert samples.name == "built-in calibration.txt"
    assert samples.digest == read_samples(None, tokenizer, vocab=VOCAB).digest
    few = read_samples(None, tokenizer, vocab=VOCAB, count=3, length=100)
    assert [one.size for one in few.ids] == [100] * 3
    assert few.digest != samples.digest
    assert few.text == samples.text


def test_a_text_is_cut_into_samples(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefghij" * 20)
    samples = read_samples(tmp_path / "a.txt", tokenizer, vocab=VOCAB, length=80)
    assert [one.size for one in samples.ids] == [80, 80, 41]  # <s> comes first
    assert samples.ids[0][:4].tolist() == [256, 97, 98, 99]
    assert samples.text == sha256_file(tmp_path / "a.txt")


def test_lines_of_json(tokenizer: Path, tmp_path: Path) -> None:
    file = _lines(tmp_path / "a.jsonl", {"text": "x" * 50}, {"input_ids": list(range(40))}, {"text": "short"})
    samples = read_samples(file, tokenizer, vocab=VOCAB, length=45)
    assert [one.size for one in samples.ids] == [45, 40]
    assert samples.ids[1].dtype == np.int64


def test_a_table_is_read_no_further_than_it_is_needed(tokenizer: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,text\n" + "".join(f"{i},{'word ' * 20}\n" for i in range(10)) + '11,"open')
    samples = read_samples(file, tokenizer, vocab=VOCAB, count=3, length=50, name="owner/set:a.csv")
    assert [one.size for one in samples.ids] == [50] * 3
    assert (samples.name, samples.text) == ("owner/set:a.csv", sha256_file(file))
    with pytest.raises(CalibrationError, match=r"owner/set:a\.csv"):
        read_samples(file, tokenizer, vocab=VOCAB, name="owner/set:a.csv")


def test_rows_without_a_text_are_passed_over(tokenizer: Path, tmp_path: Path) -> None:
    file = _lines(tmp_path / "a.jsonl", {"text": None}, {"text": "x" * 99}, {"text": None, "more": 1})
    assert [one.size for one in read_samples(file, tokenizer, vocab=VOCAB).ids] == [100]


def test_ids_need_no_tokenizer(tmp_path: Path) -> None:
    file = _lines(tmp_path / "a.jsonl", {"input_ids": list(range(100))})
    assert read_samples(file, None, vocab=VOCAB).tokens == 100


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "", "gives 0 tokens"),
        ("a.txt", "too short", "gives 10 tokens"),
        ("a.jsonl", "", "gives 0 tokens"),
        ("a.jsonl", '{"text": "abc"}\n' * 100, f"gives 0 tokens in samples of 8 or more; expected {LEAST_TOKENS}"),
        ("a.jsonl", '{"text": "abcdefghijk"}\nnot json\n', "line 2 of `a.jsonl` is not JSON"),
        ("a.jsonl", '{"content": "abc"}\n', "line 1 of `a.jsonl`: expected `text` .*, found columns content"),
        ("a.jsonl", '{"input_ids": [1, 2.5]}\n', "expected `text` .a string. or `input_ids`"),
        ("a.jsonl", '{"input_ids": [1, true]}\n', "expected `text` .a string. or `input_ids`"),
        ("a.jsonl", f'{{"input_ids": [1, {VOCAB}]}}\n', f"line 1 of `a.jsonl` has the token id {VOCAB}"),
        ("a.jsonl", '{"input_ids": [1, -4]}\n', "the model has ids 0 to 258"),
        ("a.jsonl", '{"input_ids": [100000000000000000000000]}\n', "the model has ids 0 to 258"),
        ("a.jsonl", "[1, 2]\n", "expected `text` .a string. or `input_ids`"),
    ],
)
def test_files_that_say_too_little(tokenizer: Path, tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CalibrationError, match=expected) as caught:
        read_samples(tmp_path / name, tokenizer, vocab=VOCAB)
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_a_file_that_is_not_there(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="No such file"):
        read_samples(tmp_path / "gone.txt", tokenizer, vocab=VOCAB)


def test_a_file_that_is_no_text(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe" * 100)
    with pytest.raises(CalibrationError, match="is not UTF-8"):
        read_samples(tmp_path / "a.txt", tokenizer, vocab=VOCAB)


def test_a_tokenizer_of_another_model(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CalibrationError, match=r"built-in calibration\.txt has the token id 256; the model has ids 0 to 199"
    ):
        read_samples(None, tokenizer, vocab=200)


def test_text_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="needs the model's tokenizer; found none"):
        read_samples(None, None, vocab=VOCAB)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="cannot be read"):
        read_samples(None, tmp_path, vocab=VOCAB)
