"""The whole matrix as one HTML page that needs no other file: states, failures with their logs, time, cost."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from compiler.matrix.state import log_file
from compiler.matrix.view import cost
from compiler.report import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.matrix.state import MatrixRow
    from compiler.matrix.view import Prices

_LOG_TAIL = 10_000
"""Characters at the end of the log of a failed build."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1d1f21 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .8rem .3rem 0 }
tr { border-bottom: 1px solid #ddd } td.n { text-align: right; font-variant-numeric: tabular-nums }
.failed, .refused, .canceled { color: #a11 } pre { overflow-x: auto; background: #f6f6f6; padding: .8rem }
"""
_COLUMNS = ("build", "state", "artifact", "instance type", "attempts", "time", "cost", "")


def page(rows: Sequence[MatrixRow], output: Path, prices: Prices) -> str:
    """HTML of the rows. `output`: folder of the artifacts, which has the logs."""
    states = [row.state for row in rows]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    paid = [price for row in rows if (price := cost(row.seconds, row.instance, prices)) is not None]
    total = f"{counted}; {seconds(sum(row.seconds for row in rows))} of machines" + (
        f", cost {sum(paid):.2f} ({len(paid)} of {len(rows)} builds have a price)" if paid else ""
    )
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    body = "\n".join(_line(row, prices) for row in rows)
    details = "\n".join(_detail(row, output) for row in rows if row.error)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>lmi-compile matrix</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>Matrix</h1>\n<p>{escape(total)}</p>\n<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>\n"
        f"{details}\n</body></html>\n"
    )


def _line(row: MatrixRow, prices: Prices) -> str:
    price = cost(row.seconds, row.instance, prices)
    numbers = [
        str(row.attempts or ""),
        seconds(row.seconds) if row.seconds else "",
        "" if price is None else f"{price:.2f}",
    ]
    digest = (row.digest or "").removeprefix("sha256:")[:12]
    texts = [f"<td>{escape(row.name)}</td>", f'<td class="{row.state}">{row.state}</td>']
    texts += [f"<td>{escape(text)}</td>" for text in (digest, row.instance)]
    texts += [f'<td class="n">{number}</td>' for number in numbers]
    note = f"{row.failure}: {row.error.partition(chr(10))[0]}" if row.failure else row.error.partition("\n")[0]
    link = f'<a href="#{escape(row.name)}">{escape(note)}</a>' if row.error else ""
    return f"<tr>{''.join(texts)}<td>{link}</td></tr>"


def _detail(row: MatrixRow, output: Path) -> str:
    try:
        log = log_file(output, row.name).read_bytes().decode(errors="replace")[-_LOG_TAIL:]
    except OSError:
        log = ""
    return (
        f'<h2 id="{escape(row.name)}">{escape(row.name)}</h2>\n<p>{escape(row.step)}: exit code {row.exit_code}</p>\n'
        f"<pre>{escape(row.error)}</pre>\n<details><summary>log</summary><pre>{escape(log)}</pre></details>"
    )
