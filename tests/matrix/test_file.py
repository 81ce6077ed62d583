from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from compiler.cli.matrix import _build_options
from compiler.errors import UsageError
from compiler.matrix.file import chosen, read_builds

if TYPE_CHECKING:
    from pathlib import Path

ALLOWED = ("model", "revision", "target", "tp", "dtype", "max-batch", "name", "rehash", "output", "json")


def entries(folder: Path, text: str) -> dict[str, tuple[str, ...]]:
    file = folder / "builds.toml"
    file.write_text(text)
    return {entry.name: entry.words for entry in read_builds(file, ALLOWED)}


def test_lists_multiply_and_defaults_fill_in(tmp_path: Path) -> None:
    found = entries(
        tmp_path,
        """
        [defaults]
        max-batch = 4
        [[build]]
        model = "owner/Big"
        tp = [2, 4]
        dtype = ["bfloat16", "float16"]
        [[build]]
        name = "small"
        model = "./small/"
        max-batch = 1
        rehash = true
        """,
    )
    assert list(found) == [
        "Big-inductor-tp2-bfloat16", "Big-inductor-tp2-float16", "Big-inductor-tp4-bfloat16",
        "Big-inductor-tp4-float16", "small",
    ]  # fmt: skip
    assert found["small"] == ("--max-batch", "1", "--model", "./small/", "--name", "small", "--rehash")
    assert found["Big-inductor-tp4-float16"] == (
        "--dtype", "float16", "--max-batch", "4", "--model", "owner/Big", "--name", "Big-inductor-tp4-float16",
        "--tp", "4",
    )  # fmt: skip


def test_a_given_name_is_made_different_by_what_varies(tmp_path: Path) -> None:
    text = '[[build]]\nname = "small"\nmodel = "a"\ntp = [2, 3]\ndtype = ["float32"]\n'
    assert list(entries(tmp_path, text)) == ["small-tp2-float32", "small-tp3-float32"]


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        entries(
            tmp_path,
            """
            surplus = 1
            [[build]]
            model = "a"
            max-bach = 4
            [[build]]
            tp = 1
            [[build]]
            model = "a"
            output = "elsewhere"
            [[build]]
            model = "a"
            dtype = [["nested"]]
            """,
        )
    told = caught.value.message
    assert "`surplus`: expected only [defaults], [fleet] and [[build]]" in told
    assert "[[build]] 1: `lmi-compile build` has no option `max-bach`; did you mean `max-batch`?" in told
    assert "[[build]] 2: expected a table with `model`" in told
    assert "[[build]] 3: `lmi-compile build` has no option `output`" in told
    assert "[[build]] 4: `dtype`: expected a word, a number, true, or a list" in told
    assert "two builds are called `a-inductor-tp1`" in told


@pytest.mark.parametrize("text", ["", "build = 3", "[[build]\n", "[defaults]\ntp = 1"])
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        entries(tmp_path, text)


def test_a_name_that_cannot_name_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`\.\./x` cannot name an artifact"):
        entries(tmp_path, '[[build]]\nmodel = "a"\nname = "../x"\n')
    with pytest.raises(UsageError, match="cannot read"):
        read_builds(tmp_path / "nowhere.toml", ALLOWED)


def test_some_of_them(tmp_path: Path) -> None:
    file = tmp_path / "builds.toml"
    file.write_text('[[build]]\nmodel = "a"\ntp = [1, 2, 4]\n')
    found = read_builds(file, ALLOWED)
    assert chosen(found, []) == found
    assert chosen(found, ["a-inductor-tp4", "a-inductor-tp1", "a-inductor-tp4"]) == (found[2], found[0])
    with pytest.raises(UsageError, match="no build is called b"):
        chosen(found, ["b"])


def test_the_words_are_the_options_of_build() -> None:
    assert {"model", "revision", "tp", "target", "dtype", "max-positions", "max-batch"} <= set(_build_options())
