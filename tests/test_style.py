"""Rules of STYLE.md that a machine can check."""

from __future__ import annotations

import ast
import inspect
import re
import tokenize
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from compiler import errors
from compiler.cli import app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT = Path(__file__).parents[1]
TREES = ("compiler", "recipes", "benchmarks")

HEADLESS = ("Of", "What", "That", "Those", "The same")
BRITISH = re.compile(
    r"(quant|initial|normal|token|optim|serial|organ|recogn|synchron|general|special|summar|minim|maxim|vector|real|util)is"
    r"(e|es|ed|er|ers|ing|ation|ations)(?![a-z])|(?<![a-z])(colour|neighbour|behaviour|centred|honour|favour)",
    re.IGNORECASE,
)
USER_SPELLING = {"quantisation", "Quantisation"}
"""Names of JSON keys that users already have, and of the classes that hold them."""


def files() -> Iterator[str]:
    for tree in TREES:
        yield from sorted(str(path.relative_to(ROOT)) for path in (ROOT / tree).rglob("*.py"))


FILES = list(files())


Lines = tuple[tuple[int, str], ...]
"""Line and text."""


@dataclass(frozen=True)
class Source:
    """Texts of a file. `docstrings`: those of attributes too; `comments`: without directives such as `noqa`;
    `identifiers`: all that it defines; `helps`: of options, arguments and groups; `unhinted`: errors without a hint.
    """

    docstrings: Lines
    comments: Lines
    identifiers: Lines
    helps: Lines
    unhinted: Lines


@cache
def read(file: str) -> Source:
    path = ROOT / file
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = (docstrings(nodes), comments(path), identifiers(nodes), helps(nodes), unhinted(nodes))
    return Source(*(tuple(each) for each in found))


def docstrings(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def comments(path: Path) -> Iterator[tuple[int, str]]:
    with path.open() as source:
        for token in tokenize.generate_tokens(source.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string.lstrip("# ")


def identifiers(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def helps(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, ast.keyword) and node.arg == "help" and isinstance(node.value, ast.Constant):
            yield node.value.lineno, str(node.value.value)


ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type)}


def unhinted(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in ERRORS:
            continue
        if not any(keyword.arg == "hint" for keyword in node.keywords):
            yield node.lineno, node.func.id


def every(texts: Callable[[Source], Iterable[tuple[int, str]]]) -> Iterator[tuple[str, str]]:
    """Place and text of all texts of a kind."""
    for file in FILES:
        for line, text in texts(read(file)):
            yield f"{file}:{line}", text


def prose() -> Iterator[tuple[str, str]]:
    return every(lambda source: (*source.docstrings, *source.comments))


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?:])\s+(?=[A-Z])", text.strip())


def headless(text: str) -> bool:
    return any(re.match(rf"{words}\b", text.lstrip()) for words in HEADLESS)


def british(text: str) -> list[str]:
    return [word for word in re.findall(r"[A-Za-z]+", text) if BRITISH.search(word) and word not in USER_SPELLING]


def test_the_first_line_of_a_docstring_names_the_thing() -> None:
    texts = every(lambda source: source.docstrings)
    assert [f"{place}: {text.splitlines()[0]}" for place, text in texts if headless(text)] == []


def test_no_sentence_is_headless() -> None:
    assert [f"{place}: {one}" for place, text in prose() for one in sentences(text) if headless(one)] == []


def test_the_first_line_of_a_docstring_is_one_line() -> None:
    texts = every(lambda source: source.docstrings)
    firsts = [(place, text.lstrip("\\\n").splitlines()[0]) for place, text in texts]
    assert [place for place, first in firsts if not first.strip() or len(first) > 120] == []


def test_the_spelling_is_american() -> None:
    found = [f"{place}: {word}" for place, text in prose() for word in british(text)]
    names = every(lambda source: source.identifiers)
    found += [f"{place}: {name}" for place, name in names if british(name.replace("_", " "))]
    assert found == []


def test_a_help_text_has_at_most_80_characters() -> None:
    assert [f"{place}: {text}" for place, text in every(lambda source: source.helps) if len(text) > 80] == []


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_every_error_says_what_it_is(kind: type) -> None:
    text = vars(kind).get("__doc__") or ""
    assert re.match(r"[A-Z].{15,}\.", text), f"{kind.__name__}: {text!r}"


def test_every_error_has_a_hint() -> None:
    assert [f"{place}: {kind}" for place, kind in every(lambda source: source.unhinted)] == []


def commands(group: Any) -> Iterator[tuple[Any, Any]]:
    """Every command of a group and of its groups, with the group."""
    for command in group.commands.values():
        yield group, command
        if hasattr(command, "commands"):
            yield from commands(command)


def source(command: Any) -> str:
    """File of a command, relative to the root; "" for a group."""
    return (
        str(Path(inspect.unwrap(command.callback).__code__.co_filename).relative_to(ROOT)) if command.callback else ""
    )


@pytest.mark.parametrize(
    ("group", "command"),
    [
        pytest.param(group, command, id=f"{group.name} {command.name}")
        for group, command in commands(typer.main.get_command(app))
        if source(command) in FILES
    ],
)
def test_a_list_of_commands_shows_their_whole_first_lines(group: Any, command: Any) -> None:
    room = 80 - 6 - max(map(len, group.commands))  # two blanks before the name, two behind it, as click sets them
    assert not command.get_short_help_str(room).endswith("..."), command.help


def test_the_rules_find_their_faults() -> None:
    assert [headless(text) for text in ("Of a row.", "What it is.", "The same again.", "Offset.", "Those.")] == [
        True, True, True, False, True,
    ]  # fmt: skip
    assert [one for one in sentences("A row. Of its file: What it has.") if headless(one)] == [
        "Of its file:",
        "What it has.",
    ]
    assert british("quantised tokenising colours, a raise, wise, Quantizer; normalisation") == [
        "quantised", "tokenising", "colours", "normalisation",
    ]  # fmt: skip
