"""Chart of the first token, from the table in RESULTS.md: `python -m benchmarks.testbed.chart` writes it."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHART = ROOT / "docs/pages/assets/first-token.svg"
_TITLE = "Start: `python -m benchmarks.start"
_NAMES = {
    "artifact": "this artifact",
    "eager": "eager",
    "compile warm": "torch.compile, warm cache",
    "compile cold": "torch.compile, cold",
}
_WIDTH, _LEFT, _ROW, _BAR = 640, 190, 34, 20
_STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1f2328}.own{fill:#0b6b43}.other{fill:#6e7781}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.own{fill:#3fb27f}.other{fill:#8b949e}}"
)


def seconds() -> dict[str, float]:
    """Seconds from process start to the first token, by mode, from RESULTS.md."""
    text = (ROOT / "benchmarks/RESULTS.md").read_text()
    part = text[text.index(f"## {_TITLE}") :].split("\n## ")[0]
    rows = re.findall(r"^\| ([a-z ]+) \| ([\d.]+) \|", part, re.MULTILINE)
    found = {name: float(value) for name, value in rows}
    return {name: found[name] for name in _NAMES}


def chart(found: dict[str, float]) -> str:
    """SVG with a bar for each mode; its description has the values."""
    most, height = max(found.values()), _ROW * len(found) + 44
    about = ", ".join(f"{_NAMES[name]} {value:.1f} s" for name, value in found.items())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>First token of a fresh process: {escape(about)}</title><style>{_STYLE}</style>",
        '<text x="0" y="18" font-weight="600">Seconds from process start to the first token</text>',
    ]
    for row, (name, value) in enumerate(found.items()):
        top, width = 34 + row * _ROW, (_WIDTH - _LEFT - 70) * value / most
        kind = "own" if row == 0 else "other"
        lines += [
            f'<text x="{_LEFT - 10}" y="{top + 15}" text-anchor="end">{escape(_NAMES[name])}</text>',
            f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}"/>',
            f'<text x="{_LEFT + width + 8:.1f}" y="{top + 15}">{value:.1f} s</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    CHART.write_text(chart(seconds()))
    print(CHART.relative_to(ROOT))


if __name__ == "__main__":
    main()
