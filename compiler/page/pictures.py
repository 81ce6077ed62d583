"""Pictures as SVG, sized by their view box; colors are classes of the page's style. Each has a text alternative."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 680
_LEFT, _RIGHT, _ROW, _BAR = 232, 180, 28, 16
_COLORS = 8
"""Classes h0 ... of heads."""


def bars(title: str, rows: Sequence[tuple[str, float, str]], limit: tuple[float, str] | None = None) -> str:
    """Horizontal bars. `rows`: name, value and the value's text; `limit`: value and text of a line across them."""
    most = max(max((value for _, value, _ in rows), default=0), limit[0] if limit else 0) or 1
    lines, height = [], len(rows) * _ROW + 8
    for row, (name, value, text) in enumerate(rows):
        top, width = 4 + row * _ROW, (WIDTH - _LEFT - _RIGHT) * value / most
        lines.append(
            f'<text x="{_LEFT - 8}" y="{top + 13}" text-anchor="end">{escape(_short(name))}</text>'
            f'<rect class="bar" x="{_LEFT}" y="{top}" width="{max(width, 1):.1f}" height="{_BAR}"/>'
            f'<text x="{_LEFT + width + 6:.1f}" y="{top + 13}">{escape(text)}</text>'
        )
    if limit:
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * limit[0] / most
        lines.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
        lines.append(f'<text x="{x:.1f}" y="{height + 14}" text-anchor="end">{escape(limit[1])}</text>')
        height += 20
    return _svg(title, height, lines)


def heads(title: str, queries: Sequence[Sequence[str]], keys: Sequence[Sequence[str]], most: int = 16) -> str:
    """Query heads (squares) and kv heads (bars below them) of each rank, colored by kv head; the first `most` ranks."""
    lines, top = [], 4
    group = _group(queries, keys)
    for rank, (own, cached) in enumerate(zip(queries[:most], keys, strict=False)):
        lines.append(f'<text x="0" y="{top + 14}">rank {rank}</text>')
        space = WIDTH - 84
        size = min(22.0, space / max(len(own), 1))
        for place, head in enumerate(own):
            kind = f"h{int(head) // group % _COLORS}" if head else "empty"
            lines.append(
                f'<rect class="{kind}" x="{84 + place * size:.1f}" y="{top}" width="{size - 1.5:.1f}" height="14"/>'
            )
        width = size * len(own) / max(len(cached), 1)
        for place, head in enumerate(cached):
            kind = f"h{int(head) % _COLORS}" if head else "empty"
            x = 84 + place * width
            lines.append(f'<rect class="{kind}" x="{x:.1f}" y="{top + 17}" width="{width - 1.5:.1f}" height="6"/>')
        top += 32
    return _svg(title, top + 4, lines)


def _group(queries: Sequence[Sequence[str]], keys: Sequence[Sequence[str]]) -> int:
    """Query heads of a kv head."""
    counts = [max((int(head) for row in rows for head in row if head), default=0) + 1 for rows in (queries, keys)]
    return -(-counts[0] // counts[1])


def errors(title: str, rows: Sequence[tuple[str, float]], limit: float | None) -> str:
    """Error of every part of every layer on a scale of powers of ten, with a line at the limit."""
    values = [value for _, value in rows if value > 0] or [1e-6]
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(*values, limit or 0, 1e-12))), low + 1)
    height, left = 180, 56
    step = (WIDTH - left - 10) / max(len(rows), 1)

    def y(value: float) -> float:
        return 10 + (height - 20) * (high - math.log10(max(value, 10.0**low))) / (high - low)

    lines = [
        f'<line class="grid" x1="{left}" x2="{WIDTH - 4}" y1="{y(10.0**power):.1f}" y2="{y(10.0**power):.1f}"/>'
        f'<text x="{left - 6}" y="{y(10.0**power) + 4:.1f}" text-anchor="end">{10.0 ** (power + 2):g} %</text>'
        for power in range(low, high + 1)
    ]
    for place, (name, value) in enumerate(rows):
        top = y(value)
        lines.append(
            f'<rect class="bar" x="{left + place * step:.1f}" y="{top:.1f}" width="{max(step - 1, 1):.1f}" '
            f'height="{max(height - 10 - top, 1):.1f}"><title>{escape(name)}: {value:.3%}</title></rect>'
        )
    if limit:
        lines.append(f'<line class="limit" x1="{left}" x2="{WIDTH - 4}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"/>')
        lines.append(f'<text x="{WIDTH - 6}" y="{y(limit) - 4:.1f}" text-anchor="end">limit {limit:.2%}</text>')
    return _svg(title, height, lines)


def _svg(title: str, height: float, lines: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(lines)}</svg>"
    )


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"...{name[-17:]}"
