"""The whole matrix as one HTML page that needs no other file: states, failures with their logs, time, cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compiler.matrix.state import log_file
from compiler.matrix.summary import BAD
from compiler.matrix.view import cost
from compiler.page.template import rendered
from compiler.report import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.matrix.state import MatrixRow
    from compiler.matrix.view import Prices

_LOG_TAIL = 10_000
"""Characters at the end of the log of a failed build."""
_COLUMNS = ("build", "state", "artifact", "instance type", "attempts", "time", "cost", "")


def page(rows: Sequence[MatrixRow], output: Path, prices: Prices) -> str:
    """HTML of the rows. `output`: folder of the artifacts, which has the logs."""
    states = [row.state for row in rows]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    paid = [price for row in rows if (price := cost(row.seconds, row.instance, prices)) is not None]
    total = f"{counted}; {seconds(sum(row.seconds for row in rows))} of machines" + (
        f", cost {sum(paid):.2f} ({len(paid)} of {len(rows)} builds have a price)" if paid else ""
    )
    lines = [_line(row, output, prices) for row in rows]
    return rendered(Path(__file__).with_name("matrix.html.j2"), summary=total, columns=_COLUMNS, rows=lines)


def _line(row: MatrixRow, output: Path, prices: Prices) -> dict[str, object]:
    price, first = cost(row.seconds, row.instance, prices), row.error.partition("\n")[0]
    return {
        "name": row.name,
        "state": row.state,
        "bad": row.state in BAD,
        "digest": (row.digest or "").removeprefix("sha256:")[:12],
        "instance": row.instance,
        "attempts": row.attempts or "",
        "time": seconds(row.seconds) if row.seconds else "",
        "cost": "" if price is None else f"{price:.2f}",
        "note": f"{row.failure}: {first}" if row.failure else first,
        "ending": f"{row.step}: exit code {row.exit_code}",
        "error": row.error,
        "log": _log(row, output) if row.error else "",
    }


def _log(row: MatrixRow, output: Path) -> str:
    try:
        return log_file(output, row.name).read_bytes().decode(errors="replace")[-_LOG_TAIL:]
    except OSError:
        return ""
