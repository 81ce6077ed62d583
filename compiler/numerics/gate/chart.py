"""Bar chart on a logarithmic scale, as inline SVG: one bar per part of a layer, layers from left to right."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import isfinite, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 920, 240, 56, 8, 14, 22
"""Size and margins of the drawing in its own units: it is scaled to the width of the page."""
_WIDEST = 26
"""Largest width of a bar with its gap: few bars do not fill the page."""
_LABELS = 20
"""Limit of layer numbers below the axis."""


@dataclass(frozen=True)
class Bar:
    """One bar. `layer`: number below it. `kind`: CSS class, explained by the legend. `title`: tooltip."""

    layer: int
    kind: str
    value: float
    title: str


@dataclass(frozen=True)
class LimitLine:
    """Horizontal line across all bars."""

    value: float
    label: str


def bars(found: Sequence[Bar], low: int, high: int, unit: str, line: LimitLine | None = None) -> str:
    """SVG of the bars `found`, from 10^`low` to 10^`high`; values beyond are clamped. `unit`: "%" shows hundredths, any
    other is appended to the numbers.
    """
    step = min((_WIDTH - _LEFT - _RIGHT) / max(len(found), 1), _WIDEST)
    right = _LEFT + step * len(found)
    shapes = []
    for decade in range(low, high + 1):
        y = _y(10.0**decade, low, high)
        shapes.append(f'<line class="grid" x1="{_LEFT}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<text class="scale" x="{_LEFT - 6}" y="{y + 4:.1f}">{_number(10.0**decade, unit)}</text>')
    layers = sorted({bar.layer for bar in found})
    labeled = set(layers[:: -(-len(layers) // _LABELS)])
    for i, bar in enumerate(found):
        x, y = _LEFT + i * step, _y(bar.value, low, high)
        if bar.layer in labeled:
            labeled.discard(bar.layer)
            shapes.append(f'<text x="{x:.1f}" y="{_HEIGHT - 6}">{bar.layer}</text>')
        shapes.append(
            f'<rect class="{bar.kind}" x="{x:.1f}" y="{y:.1f}" width="{step * 0.8:.1f}" '
            f'height="{max(_HEIGHT - _BOTTOM - y, 1):.1f}"><title>{escape(bar.title)}</title></rect>'
        )
    if line is not None:
        y = _y(line.value, low, high)
        shapes.append(f'<line class="limit" x1="{_LEFT}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<text class="limit" x="{right:.1f}" y="{y - 4:.1f}">{escape(line.label)}</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(shapes)}</svg>'


def legend(kinds: dict[str, str]) -> str:
    """Legend: CSS class of bars -> meaning."""
    entries = "".join(f'<span class="{kind}"></span>{escape(text)}' for kind, text in kinds.items())
    return f'<p class="legend">{entries}</p>'


def _y(value: float, low: int, high: int) -> float:
    size = log10(max(value, 10.0**low)) if isfinite(value) else high
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * (min(size, high) - low) / (high - low)


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.10g} %" if unit == "%" else f"{value:.10g}{unit}"
