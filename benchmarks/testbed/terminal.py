"""Picture of the end of a log, as a terminal shows it, for the documentation:

    ./scripts/demo 2>&1 | tee build/demo.log
    python -m benchmarks.testbed.terminal build/demo.log docs/pages/assets/demo.svg

The SVG refers to nothing outside of itself.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

WIDTH, LINES = 100, 24


def picture(text: str, title: str = "scripts/demo") -> str:
    """SVG of the last LINES of a text."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    for line in text.rstrip().splitlines()[-LINES:]:
        console.print(Text(line, style="bold" if line.startswith("$ ") else ""), highlight=False)
    return re.sub(r"@font-face \{.*?\}\n", "", console.export_svg(title=title), flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    options.output.write_text(picture(options.log.read_text()))


if __name__ == "__main__":
    main()
