"""`python -m benchmarks.against`: arguments, turns, and the figures of two checkouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.testbed.turns import measure, table, turns_of


def _checkout(folder: Path, seconds: float) -> Path:
    (folder / "compiler").mkdir(parents=True)
    (folder / "compiler" / "__init__.py").touch()
    (folder / "figure.py").write_text(f"import sys\nprint('words', sys.argv[1:])\nprint('took {seconds} s')\n")
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return _checkout(tmp_path / "before", 4.0)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return _checkout(tmp_path / "after", 3.0)


def test_arguments_behind_the_dashes_are_those_of_python(old: Path, new: Path) -> None:
    turns = turns_of([str(old), "--runs", "2", "--", "-m", "compiler", "--runs", "9", "--", "x"], "", new)
    assert turns.command == ("-m", "compiler", "--runs", "9", "--", "x")
    assert (turns.runs, turns.figure, dict(turns.checkouts)) == (2, None, {"old": old, "new": new})


def test_the_sides_take_turns_and_who_begins_changes(old: Path, new: Path) -> None:
    turns = turns_of([str(old), "--runs", "2", "--", "-c", "pass"], "", new)
    assert turns.order == ["old", "new", "new", "old", "old", "new"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{old}"], "expected arguments of Python behind `--`"),
        (["{old}", "--"], "expected arguments of Python behind `--`"),
        (["{old}", "--runs", "0", "--", "-c", "pass"], "`--runs` is 1 or more; found 0"),
        (["{new}", "--", "-c", "pass"], "two checkouts take turns"),
        (["{old}/compiler", "--", "-c", "pass"], "the old checkout has a folder `compiler`"),
        (["{old}", "--new", "{old}/nowhere", "--", "-c", "pass"], "the new checkout has a folder `compiler`"),
        (["{old}", "--figure", "took", "--", "-c", "pass"], "`--figure` has one group, the number; found 0"),
        (["{old}", "--figure", "(", "--", "-c", "pass"], "is no regular expression"),
        (["--", "-c", "pass"], "the following arguments are required: CHECKOUT"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(
    arguments: list[str], message: str, old: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        turns_of([word.format(old=old, new=new) for word in arguments], "", new)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_each_side_runs_its_own_files_and_the_figure_is_read_from_its_output(old: Path, new: Path) -> None:
    command = [str(old), "--runs", "1", "--figure", r"took ([0-9.]+) s", "--", "-m", "figure"]
    found = measure(turns_of(command, "", new))
    assert found == {"old": [4.0], "new": [3.0]}
    assert table(found).splitlines()[-1] == "| 4 | 3 | 0.750 | 4 | 3 |"


def test_the_side_is_put_into_the_arguments(old: Path, new: Path) -> None:
    with pytest.raises(SystemExit, match=r"words \['work-old'\]"):
        measure(turns_of([str(old), "--figure", "no(thing)", "--", "-m", "figure", "work-{side}"], "", new))


def test_a_command_that_fails_ends_it_with_its_output(old: Path, new: Path) -> None:
    with pytest.raises(SystemExit, match=r"old: exit code 3 in .*before\nseen"):
        measure(turns_of([str(old), "--", "-c", "print('seen'); exit(3)"], "", new))
