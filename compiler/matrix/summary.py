"""Rows of a matrix as text, as Markdown for a pull request, and as JUnit XML for a CI's list of tests."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from compiler.matrix.state import log_file
from compiler.matrix.status import status_cells
from compiler.report import seconds, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.matrix.state import MatrixRow
    from compiler.matrix.status import CellStatus

BAD = ("failed", "refused", "canceled")
_COLUMNS = ("build", "state", "artifact", "time", "")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 excludes."""
_LOG_TAIL = 20_000
"""Characters of a failed build's log that the JUnit report quotes."""


def text(rows: Sequence[MatrixRow]) -> str:
    return table([_cells(row) for row in rows], _COLUMNS)


def status_text(found: Sequence[CellStatus]) -> str:
    """Table of builds that ended, and of those that run."""
    return table([_status_cells(one) for one in found], _COLUMNS)


def markdown(rows: Sequence[MatrixRow]) -> str:
    """Table with a heading in GitHub's Markdown: the comment on a pull request."""
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *(_cells(row) for row in rows)]
    cells = ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines]
    return "\n".join(["### lmi-compile matrix", "", *cells, ""])


def junit(rows: Sequence[MatrixRow], output: Path) -> bytes:
    """JUnit XML, one test case per build; current builds are skipped tests. `output`: folder of the artifacts."""
    failures, skipped = sum(row.state in BAD for row in rows), sum(row.state == "current" for row in rows)
    facts = {"tests": str(len(rows)), "failures": str(failures), "errors": "0"}
    facts["time"] = f"{sum(row.seconds for row in rows):.1f}"
    root = ET.Element("testsuites", {"name": "lmi-compile matrix", **facts})
    suite = ET.SubElement(root, "testsuite", {"name": "matrix", "skipped": str(skipped), **facts})
    for row in rows:
        case = ET.SubElement(suite, "testcase", {"name": row.name, "classname": "matrix", "time": f"{row.seconds:.1f}"})
        if row.state in BAD:
            message = {"message": _xml(row.error.partition("\n")[0]), "type": f"exit code {row.exit_code}"}
            ET.SubElement(case, "failure", message).text = _xml(f"{row.step}: {row.error}\n\n{_tail(output, row.name)}")
        elif row.state == "current":
            ET.SubElement(case, "skipped", {"message": "unchanged"})
    ET.indent(root)
    body: bytes = ET.tostring(root, "utf-8")
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + body + b"\n"


def _status_cells(found: CellStatus) -> tuple[str, ...]:
    if found.job is None:
        return _cells(found.row)
    state, note = status_cells(found)
    return found.row.name, state, "", seconds(found.seconds), note


def _cells(row: MatrixRow) -> tuple[str, ...]:
    note = f"{row.step}: {row.error.partition(chr(10))[0]}" if row.error else ""
    digest = row.digest.removeprefix("sha256:")[:12] if row.digest else ""
    return row.name, row.state, digest, seconds(row.seconds) if row.seconds else "", note


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _xml(value: str) -> str:
    return _NOT_XML.sub("?", value)


def _tail(output: Path, name: str) -> str:
    try:
        return log_file(output, name).read_bytes().decode(errors="replace")[-_LOG_TAIL:]
    except OSError:
        return ""
