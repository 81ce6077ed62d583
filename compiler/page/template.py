"""HTML of pages, by page.html.j2 and page.css. Colors are variables, one set for each scheme; text on its background
has a contrast of 4.5 at least.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compiler.page.facts import duration
from compiler.page.pictures import bars, errors, heads
from compiler.report import amount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.page.facts import Facts, Row, StageFacts

LIGHT = {
    "text": "#1f2328", "muted": "#57606a", "back": "#ffffff", "panel": "#f6f8fa", "line": "#d0d7de", "bar": "#0b6b43",
    "limit": "#b42318", "empty": "#d0d7de", "code": "#0a3d62",
}  # fmt: skip
DARK = {
    "text": "#e6edf3", "muted": "#9da7b3", "back": "#0d1117", "panel": "#161b22", "line": "#30363d", "bar": "#3fb27f",
    "limit": "#ff7b72", "empty": "#30363d", "code": "#a5d6ff",
}  # fmt: skip
HEADS = ("#0072b2", "#d55e00", "#009e73", "#a04a78", "#7a6a00", "#56829e", "#5b5bd6", "#a5695c")
"""Colors of kv heads, distinguishable without red and green."""


_WORST = 10
_SHOWN = 64
"""Ranks of the table of heads."""


def html(found: Sequence[Facts]) -> str:
    """The page of one artifact, or of two."""
    names = " and ".join(facts.manifest.name for facts in found)
    return rendered(
        Path(__file__).with_name("page.html.j2"),
        title=f"{names} - lmi-compile",
        pages=[_page(facts) for facts in found],
        differences=_differences(*found) if len(found) == 2 else (),
    )


def rendered(template: Path, **values: object) -> str:
    """HTML of a Jinja template with the style of all pages, `style`. Values are escaped."""
    from jinja2 import Environment

    found = Environment(autoescape=True, trim_blocks=True).from_string(template.read_text(encoding="utf-8"))
    return found.render(style=_style(), **values)


def _style() -> str:
    light, dark = (";".join(f"--{name}:{value}" for name, value in one.items()) for one in (LIGHT, DARK))
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    colors = "".join(f".h{place}{{fill:{color}}}" for place, color in enumerate(HEADS))
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{css}{colors}"


def _page(facts: Facts) -> dict[str, object]:
    ranks, manifest = facts.ranks, facts.manifest
    sizes = [(name, amount(size, "bytes")) for name, size in ranks.nbytes.items()]
    limit = manifest.quantisation.gate.limits.get("stream") if manifest.quantisation else None
    worst = sorted(facts.layers, key=lambda row: -row[1])[:_WORST]
    whole = amount(sum(file.size for file in manifest.files), "bytes")
    state = manifest.section.unfinished or "complete"
    return {
        "facts": facts,
        "summary": f"{manifest.target}, tp {manifest.parallel.tp}, {len(manifest.files)} files, {whole}; {state}.",
        "bytes": bars("Bytes of each rank", [(n, s, amount(s, "bytes")) for n, s in ranks.nbytes.items()])
        if sizes
        else "",
        "byte_rows": sizes,
        "heads": heads("Heads over ranks", ranks.queries, ranks.keys) if ranks.queries else "",
        "head_rows": [
            (f"rank {rank}", _span(own), _span(cached))
            for rank, (own, cached) in enumerate(zip(ranks.queries[:_SHOWN], ranks.keys, strict=False))
        ],
        "stages": bars("Steps of the build", [(one.name, one.took, duration(one.took)) for one in facts.stages]),
        "stage_rows": [(one.name, duration(one.took), _peak(one), one.note) for one in facts.stages],
        "peaks": _peaks(facts.stages),
        "layers": errors("Error by part of a layer", facts.layers, limit),
        "layer_rows": [(name, f"{value:.3%}") for name, value in worst],
        "starts": bars("Seconds to the first token", [(n, s, duration(s)) for n, s in facts.starts.items()]),
        "start_rows": [(name, duration(value)) for name, value in facts.starts.items()],
        "prewarm_rows": [(name, duration(value)) for name, value in facts.prewarm],
    }


def _peaks(stages: Sequence[StageFacts]) -> str:
    """Picture of the peaks of memory, with the ceiling of the buffers; "" where none was measured."""
    rows = [(one.name, max(one.peak, one.child), _peak(one)) for one in stages if one.peak]
    ceiling = max((one.max_memory for one in stages), default=0)
    limit = (ceiling, f"--max-memory {amount(ceiling, 'bytes')}") if ceiling else None
    return bars("Peak memory of each step", rows, limit) if rows else ""


def _peak(one: StageFacts) -> str:
    """Text of a peak: `1.2 GB`, or `0.4 GB; 1.2 GB a worker`."""
    own = amount(one.peak, "bytes") if one.peak else "-"
    return f"{own}; {amount(one.child, 'bytes')} a worker" if one.child else own


def _span(found: Sequence[str]) -> str:
    """Text of heads: `0-7`, or a list where they are not neighbors; `-` for an empty slot."""
    numbers = [int(head) for head in found if head]
    if len(numbers) == len(found) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]}-{numbers[-1]}"
    return " ".join(head or "-" for head in found)


def _differences(one: Facts, other: Facts) -> list[Row]:
    """Lines of both artifacts, with a sign where they differ."""

    def lines(facts: Facts) -> dict[str, str]:
        manifest = facts.manifest
        return {
            **{row[0]: row[1] for row in facts.identity if row[0] not in ("note", "")},
            "bytes": amount(sum(file.size for file in manifest.files), "bytes"),
            "bytes of a rank": amount(max(facts.ranks.nbytes.values(), default=0), "bytes"),
            **{row[0]: row[1] for row in facts.numerics},
            **{f"gate: {row[0]}": row[1] for row in facts.gate},
            **{f"first token, {name}": duration(value) for name, value in facts.starts.items()},
        }

    mine, theirs = lines(one), lines(other)
    return [
        (name, mine.get(name, "-"), theirs.get(name, "-"), "" if mine.get(name) == theirs.get(name) else "\u2260")
        for name in {**mine, **theirs}
    ]
