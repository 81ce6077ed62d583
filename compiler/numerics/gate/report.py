"""Report of the gate: a few lines of text, JSON, or one self-contained HTML page."""

from __future__ import annotations

from html import escape
from math import ceil, log10
from typing import TYPE_CHECKING, Any

from compiler.numerics.gate.chart import Bar, LimitLine, bars, legend
from compiler.numerics.gate.verdict import HEAD, part_problems

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.calibration.outliers import Outliers
    from compiler.numerics.gate.verdict import PartError, Verdict
    from compiler.quantization.schemes import Tolerance

_DECADES = (-5, 0)
"""Range of the plot of errors: 0.001 % to 100 %."""
_KINDS = {"attn": "attention", "mlp": "mlp or experts"}

_STYLE = """
:root { color-scheme: light dark; --text: #1d2733; --quiet: #62707f; --grid: #dfe4ea; --attn: #3b76af; --mlp: #8fb3d9;
  --over: #c8372d; --page: #fff; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ed; --quiet: #9aa7b4; --grid: #36404b; --attn: #6aa5dd;
  --mlp: #3f6a94; --over: #ff7a6e; --page: #171c22; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2.5rem auto; padding: 0 1.25rem;
  color: var(--text); background: var(--page); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.25rem; } p { color: var(--quiet); max-width: 46rem; }
code { overflow-wrap: anywhere; font-size: .85em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem 1.4rem .2rem 0; text-align: right; border-bottom: 1px solid var(--grid); }
th { color: var(--quiet); font-weight: 500; } td:first-child, th:first-child { text-align: left; }
tr.over td { font-weight: 600; color: var(--over); }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--quiet); } .scale, text.limit {
  text-anchor: end; } .grid { stroke: var(--grid); } line.limit { stroke: var(--over); stroke-dasharray: 5 4; }
svg text.limit { fill: var(--over); }
rect.attn { fill: var(--attn); } rect.mlp { fill: var(--mlp); } rect.over { fill: var(--over); }
.legend span { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1.2em; }
.legend .attn { background: var(--attn); margin-left: 0; } .legend .mlp { background: var(--mlp); }
.legend .over { background: var(--over); }
"""


def worst(verdict: Verdict, count: int) -> list[PartError]:
    """Parts with the largest errors, in descending order."""
    return sorted(verdict.parts, key=lambda part: -part.stream)[:count]


def largest(outliers: Sequence[Outliers], count: int) -> list[Outliers]:
    """Inputs with the largest outliers, in descending order."""
    return sorted(outliers, key=lambda one: -one.ratio)[:count]


def as_text(verdict: Verdict) -> str:
    """Text for the build's report: one line on the model, one on each of the three worst parts."""
    found = verdict.evidence
    low, high = found.increase_interval
    whole = (
        f"perplexity {found.perplexity_float:.4g} -> {found.perplexity:.4g} ({found.increase:+.2%}, 95 % within "
        f"{low:+.2%} and {high:+.2%}), KL {found.kl:.2g}, same first choice {found.top1_agreement:.1%}, over "
        f"{verdict.tokens} tokens"
    )
    parts = [
        f"{part.name}: off by {part.stream:.2%} of the stream, {part.relative:.2%} of itself, output {part.channel} "
        f"most"
        for part in worst(verdict, 3)
    ]
    if verdict.lowered is not None and verdict.lowered.worst is not None:
        one, tokens = verdict.lowered.worst, verdict.lowered.tokens
        parts.append(
            f"with lowered window or boundary, {tokens} tokens: {one.name} off by {one.stream:.2%} of the stream"
        )
    return "\n".join([whole, *parts])


def as_json(verdict: Verdict, tolerance: Tolerance, outliers: Sequence[Outliers]) -> dict[str, Any]:
    """Figures of every part and every input, as JSON."""
    limits = {
        "perplexity_increase": tolerance.perplexity,
        "kl": tolerance.kl,
        "stream": tolerance.stream,
        "distance": tolerance.distance,
        "channel_distance": tolerance.channel,
    }
    return {**verdict.to_json(), "limits": limits, "outliers": [one.to_json() for one in outliers]}


def as_html(verdict: Verdict, tolerance: Tolerance, outliers: Sequence[Outliers], title: str) -> str:
    """HTML page: figures with their tolerance; errors of all parts and outliers of all inputs as plots, the worst also
    as tables. `outliers`: empty where nothing was calibrated.
    """
    found = verdict.evidence
    lost = not found.increase <= tolerance.perplexity
    (low, high), (least, most) = found.increase_interval, found.kl_interval
    figures = [
        ("perplexity, float", f"{found.perplexity_float:.5g}", "", False),
        ("perplexity, quantized", f"{found.perplexity:.5g}", "", False),
        ("increase", f"{found.increase:+.2%} ({low:+.2%} to {high:+.2%})", f"{tolerance.perplexity:+.2%}", lost),
        (
            "KL divergence, nats",
            f"{found.kl:.3g} ({least:.3g} to {most:.3g})",
            f"{tolerance.kl:g}",
            not found.kl <= tolerance.kl,
        ),
        ("same first choice", f"{found.top1_agreement:.1%}", "", False),
        ("tokens", f"{verdict.tokens:,}; parts of layers {verdict.part_tokens:,}", "", False),
    ]
    parts = [
        (
            one.name,
            f"{one.stream:.3%}",
            "" if one.distance is None else f"{one.distance:.3f}",
            f"{one.relative:.3%}",
            f"{one.cosine:.6f}",
            str(one.channel),
            bool(part_problems(one, tolerance)),
        )
        for one in worst(verdict, 20)
    ]
    limit = LimitLine(tolerance.stream, f"{tolerance.stream:.2%}")
    name = escape(title)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title><style>{_STYLE}</style></head><body>
<h1>{name}</h1>
<p>Measured on the rank files, against the unquantized model. Held-out text <code>{escape(verdict.text)}</code>.
In parentheses: 95 % intervals. Values beyond their limit are red.</p>
{_table(("", "found", "at most"), figures)}
<h2>Error of every part of every layer</h2>
<p>|quantized - float| of the part's output, on the float model's input, over the residual stream that it is added to;
by layer. Red: beyond that limit, or further from the scheme than {tolerance.distance:g} of its own error.</p>
{bars([_error(part, tolerance) for part in verdict.parts if part.name != HEAD], *_DECADES, "%", limit)}
{legend({**_KINDS, "over": "beyond a limit"})}
<h2>Largest errors</h2>
{_table(("part", "of the stream", "from the scheme", "of itself", "cosine", "worst output channel"), parts)}
{_of_inputs(outliers)}</body></html>
"""


def _error(part: PartError, tolerance: Tolerance) -> Bar:
    _, layer, kind = part.name.split(".", 2)
    kind = "over" if part_problems(part, tolerance) else kind
    return Bar(int(layer), kind, part.stream, f"{part.name}: {part.stream:.3%}")


def _of_inputs(outliers: Sequence[Outliers]) -> str:
    if not outliers:
        return ""
    found = [
        Bar(
            int(one.name.split(".")[1]),
            "attn" if one.name.split(".")[2] == "attn" else "mlp",
            one.ratio,
            f"{one.name}: channel {one.channels[0].index}, {one.ratio:.3g} x the median",
        )
        for one in outliers
    ]
    rows = [
        (
            one.name,
            f"{one.ratio:.1f}",
            f"{one.median:.3g}",
            ", ".join(f"{channel.index} ({channel.largest:.3g})" for channel in one.channels),
            False,
        )
        for one in largest(outliers, 20)
    ]
    high = max(ceil(log10(max(one.ratio for one in outliers))), 1)
    return f"""<h2>Outliers of the inputs</h2>
<p>Largest channel of every input over the median channel, each by its largest |x| over the calibration text, before
smoothing; by layer.</p>
{bars(found, 0, high, " x")}
{legend(_KINDS)}
<h2>Largest outliers</h2>
{_table(("input", "largest / median", "median |x|", "largest channels (|x|)"), rows)}
"""


def _table(heads: Sequence[str], rows: Sequence[tuple[str | bool, ...]]) -> str:
    """HTML table; the last element of a row tells whether it is beyond its limit."""
    lines = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    for *cells, over in rows:
        kind = ' class="over"' if over else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"
