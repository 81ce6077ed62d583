"""A verdict of the gate for people: a few lines of text, or one HTML page that needs nothing but itself."""

from __future__ import annotations

from html import escape
from math import isfinite, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.quant.schemes import Tolerance
    from compiler.stages.verdict import PartError, Verdict

_BAR, _GAP, _HEIGHT = 10, 3, 220
"""Pixels."""
_DECADES = (-5, 0)
"""Of the plot's axis: relative errors from 0.001 % to 100 %."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .9rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } .over { font-weight: bold; }
rect { fill: #4878a8; } rect.over { fill: #c0392b; } text { font-size: 11px; fill: #555; }
"""


def worst(verdict: Verdict, count: int) -> list[PartError]:
    """The parts that are furthest off, the worst first."""
    return sorted(verdict.parts, key=lambda part: -part.relative)[:count]


def as_text(verdict: Verdict) -> str:
    """What a build says: one line of the whole, one of each of the three worst parts."""
    whole = (
        f"perplexity {verdict.perplexity_float:.4g} -> {verdict.perplexity:.4g} ({verdict.increase:+.2%}), "
        f"KL {verdict.kl:.2g}, same first choice {verdict.top1_agreement:.1%}, over {verdict.tokens} tokens"
    )
    parts = [f"{part.name}: off by {part.relative:.2%}, output {part.channel} most" for part in worst(verdict, 3)]
    return "\n".join([whole, *parts])


def as_html(verdict: Verdict, tolerance: Tolerance, title: str) -> str:
    """The page: figures beside their tolerance, the error of every part as a plot, and of the worst as a table."""
    lost = not verdict.increase <= tolerance.perplexity
    figures = [
        ("perplexity, float", f"{verdict.perplexity_float:.5g}", "", False),
        ("perplexity, quantised", f"{verdict.perplexity:.5g}", "", False),
        ("increase", f"{verdict.increase:+.2%}", f"{tolerance.perplexity:+.2%}", lost),
        ("KL divergence, nats", f"{verdict.kl:.3g}", f"{tolerance.kl:g}", not verdict.kl <= tolerance.kl),
        ("same first choice", f"{verdict.top1_agreement:.1%}", "", False),
        ("tokens", str(verdict.tokens), "", False),
    ]
    rows = "".join(
        f"<tr{_over(over)}><td>{name}</td><td>{value}</td><td>{limit}</td></tr>" for name, value, limit, over in figures
    )
    parts = "".join(
        f"<tr{_over(not part.cosine >= tolerance.cosine)}><td>{escape(part.name)}</td><td>{part.relative:.3%}</td>"
        f"<td>{part.cosine:.6f}</td><td>{part.channel}</td></tr>"
        for part in worst(verdict, 20)
    )
    name = escape(title)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style></head><body>
<h1>{name}</h1>
<p>Measured on the rank files, against the unquantised model. Held-out text <code>{escape(verdict.text)}</code>.
What is beyond its limit is bold.</p>
<table><tr><th></th><th>found</th><th>at most</th></tr>{rows}</table>
<h2>Error of every part of every layer</h2>
<p>|quantised - float| / |float| of what the part adds, given the same input; logarithmic.
Red: cosine below {tolerance.cosine:g}.</p>
{_plot(verdict.parts, tolerance)}
<h2>The furthest off</h2>
<table><tr><th>part</th><th>relative error</th><th>cosine</th><th>output channel most off</th></tr>{parts}</table>
</body></html>
"""


def _over(over: bool) -> str:
    return ' class="over"' if over else ""


def _plot(parts: Sequence[PartError], tolerance: Tolerance) -> str:
    low, high = _DECADES
    width = 50 + len(parts) * (_BAR + _GAP)
    shapes = []
    for decade in range(low, high + 1):
        y = _HEIGHT * (high - decade) / (high - low) + 10
        shapes.append(f'<text x="0" y="{y + 4:.0f}">{10.0**decade:.10g}</text>')
        shapes.append(f'<line x1="46" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
    for i, part in enumerate(parts):
        size = log10(max(part.relative, 10.0**low)) if isfinite(part.relative) else high
        height = max(_HEIGHT * (min(size, high) - low) / (high - low), 1)
        shapes.append(
            f'<rect{_over(not part.cosine >= tolerance.cosine)} x="{50 + i * (_BAR + _GAP)}" '
            f'y="{_HEIGHT + 10 - height:.1f}" width="{_BAR}" height="{height:.1f}">'
            f"<title>{escape(part.name)}: {part.relative:.3%}</title></rect>"
        )
    return f'<svg width="{width}" height="{_HEIGHT + 20}" role="img">{"".join(shapes)}</svg>'
