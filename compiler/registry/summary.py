"""Text output of the commands on stores; `--json` prints the same facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.report import amount, seconds, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.registry.difference import Difference
    from compiler.registry.gc import Collected
    from compiler.registry.listing import Listed
    from compiler.registry.pull import Pulled
    from compiler.registry.push import Pushed
    from compiler.registry.record import HistoryEntry
    from compiler.registry.refs import Moved

_SHORT = 12
"""Hexadecimal digits of a digest in a table."""


def pushed_text(pushed: Pushed) -> str:
    """Text of a push: name, digest, immutable URI, bytes sent."""
    return table(
        [
            ("pushed", f"{pushed.name}@{pushed.ref}"),
            ("digest", pushed.digest),
            ("at", pushed.uri),
            (
                "sent",
                f"{amount(pushed.sent, 'bytes')} of {amount(pushed.nbytes, 'bytes')} in {seconds(pushed.seconds)}",
            ),
        ]
    )


def pulled_text(pulled: Pulled) -> str:
    """Text of a pull: the artifact's folder."""
    return str(pulled.folder)


def listing_text(lines: Sequence[Listed]) -> str:
    """Text of a listing: one line per artifact."""
    rows = [
        (
            line.name,
            _short(line.digest),
            ", ".join(line.tags) or "-",
            line.target,
            str(line.tp),
            amount(line.nbytes, "bytes"),
            line.published,
            line.layout,
        )
        for line in lines
    ]
    return table(rows, ("name", "digest", "tags", "target", "tp", "size", "published", "layout")) if rows else "empty"


def moved_text(moved: Moved) -> str:
    """Text of a move: the tag's new and previous artifact."""
    if moved.before == moved.after:
        return f"{moved.name}@{moved.tag} points to {moved.after} already"
    before = f", was {_short(moved.before)}" if moved.before else ""
    return f"{moved.name}@{moved.tag} points to {_short(moved.after)} now{before}\n{moved.uri}"


def history_text(lines: Sequence[tuple[str, HistoryEntry]]) -> str:
    """Text of a history: one line per move, the newest first."""
    rows = [(entry.when, tag, _short(entry.digest), entry.why, entry.who) for tag, entry in lines]
    return table(rows, ("when", "tag", "digest", "by", "who"))


def history_json(lines: Sequence[tuple[str, HistoryEntry]]) -> list[dict[str, Any]]:
    """JSON of a history."""
    from dataclasses import asdict

    return [{"tag": tag, **asdict(entry)} for tag, entry in lines]


def collected_text(collected: Collected) -> str:
    """Text of a collection: all removed keys, then the totals."""
    verb = "would be removed" if collected.dry_run else "removed"
    lines = [*collected.keys, *(f"{key} (unfinished upload)" for key in collected.uploads)]
    total = (
        f"{len(lines)} objects and uploads, {amount(collected.nbytes, 'bytes')} {verb}; {collected.kept} objects stay"
    )
    return "\n".join([*lines, total])


def difference_text(difference: Difference) -> str:
    """Text of a comparison: one line per changed field."""
    rows = [(change.field, _value(change.before), _value(change.after)) for change in difference.changes]
    total = (
        f"{difference.same} equal files, {amount(difference.nbytes_changed, 'bytes')} in files that only the second has"
    )
    return (table(rows, ("field", "first", "second")) + "\n\n" if rows else "no difference\n") + total


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple) and len(value) == 2:  # digest and size of a file
        return f"{_short(str(value[0]))} {amount(float(value[1]), 'bytes')}"
    text = _short(value) if isinstance(value, str) and value.startswith("sha256:") else str(value)
    return text if len(text) <= 48 else text[:45] + "..."


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_SHORT]
