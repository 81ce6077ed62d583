"""Reference pages of the documentation that are made from the program: `python -m tests.doc_pages` writes them."""

from __future__ import annotations

import ast
import itertools
import json
from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from compiler.artifact.manifest import json_schema
from compiler.cli import COMMANDS, app
from compiler.matrix import cell, file

PAGES = Path(__file__).parents[1] / "docs/pages/reference"
WIDTH = 100
AGAIN = "Made by `python -m tests.doc_pages` from the program itself."


def pages() -> dict[str, str]:
    """Text of each page, by its name in PAGES."""
    return {"cli.md": cli(), "manifest.md": manifest(), "builds-toml.md": builds()}


def cli() -> str:
    """Help of every command, in the order of `--help`."""
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    lines = ["# Command line", "", AGAIN, ""]
    for heading in COMMANDS:
        lines += [f"## {heading}", ""]
        for name, command in root.commands.items():
            if getattr(command, "rich_help_panel", None) == heading and not command.hidden:
                lines += _help(f"lmi-compile {name}", command)
    return "\n".join(lines)


def _help(name: str, command: Any) -> list[str]:
    context = command.make_context(name, [], resilient_parsing=True, max_content_width=WIDTH, terminal_width=WIDTH)
    lines = [
        f"### {name}",
        "",
        "```text",
        *(line.rstrip() for line in command.get_help(context).splitlines()),
        "```",
        "",
    ]
    if isinstance(command, TyperGroup):
        for inner, one in command.commands.items():
            lines += _help(f"{name} {inner}", one)
    return lines


def manifest() -> str:
    """Objects of the manifest's schema, with their fields."""
    schema = json.loads(json_schema())
    lines = ["# Manifest", "", f"`manifest.json` of an artifact. {AGAIN}", ""]
    lines += _object("manifest.json", schema)
    for name, one in sorted(schema["$defs"].items()):
        lines += _object(name, one)
    return "\n".join(lines)


def _object(name: str, schema: dict[str, Any]) -> list[str]:
    about = " ".join(schema.get("description", "").split())
    needed = schema.get("required", ())
    rows = [
        f"| `{field}` | {_type(one)} | {'' if field in needed else 'optional'} |"
        for field, one in schema.get("properties", {}).items()
    ]
    return [f"## {name}", "", *([about, ""] if about else []), "| field | type | |", "|---|---|---|", *rows, ""]


def _type(one: dict[str, Any]) -> str:
    if "$ref" in one:
        name = one["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in one:
        return " or ".join(_type(each) for each in one["anyOf"])
    if "const" in one or "enum" in one:
        return " or ".join(f"`{json.dumps(value)}`" for value in one.get("enum", [one.get("const")]))
    if one.get("type") == "array":
        return f"list of {_type(one['items'])}" if "items" in one else "list"
    if one.get("type") == "object" and isinstance(one.get("additionalProperties"), dict):
        return f"object of {_type(one['additionalProperties'])}"
    limits = [f"{word} {one[key]}" for key, word in (("minimum", "at least"), ("maximum", "at most")) if key in one]
    return ", ".join([str(one.get("type", "any")), *limits, *([f"`{one['pattern']}`"] if "pattern" in one else [])])


def builds() -> str:
    """Example and keys of builds.toml."""
    about, _, example = (file.__doc__ or "").partition("\n\n")
    keys, ours = _documented(Path(cell.__file__), "KEYS"), ", ".join(f"`{name}`" for name in sorted(file.OURS))
    build = "A build has every option of [`lmi-compile build`](cli.md#lmi-compile-build), without `--`, except "
    fleet = f"Keys of `fleet`: {', '.join(f'`{key}`' for key in cell.KEYS)}. {keys}"
    head = ["# builds.toml", "", f"{about} {AGAIN}", "", "```toml", example.rstrip(), "```", ""]
    return "\n".join([*head, f"{build}{ours}.", "", fleet, ""])


def _documented(path: Path, name: str) -> str:
    """Docstring after the assignment of a name in a module; "" for none."""
    body = ast.parse(path.read_text()).body
    for one, other in itertools.pairwise(body):
        names = [t.id for t in getattr(one, "targets", [getattr(one, "target", None)]) if isinstance(t, ast.Name)]
        if name in names and isinstance(other, ast.Expr) and isinstance(other.value, ast.Constant):
            return " ".join(str(other.value.value).split())
    return ""


def main() -> None:
    for name, text in pages().items():
        (PAGES / name).write_text(text)
        print(PAGES / name)


if __name__ == "__main__":
    main()
