"""Time of an unchanged build, and of `--help`.

    python -m benchmarks.rebuild --work DIR [--runs 7]

The build of the random TinyLlama (2.2 GB) is repeated unchanged; the time of `python -c pass` is shown beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.tinyllama import ROOT, machine, prepared


def seconds(arguments: list[str], cache: Path) -> float:
    """Wall time of a Python process in seconds."""
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT,
        env={**os.environ, "LMI_COMPILE_CACHE": str(cache)},
    )  # fmt: skip
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    checkpoint, artifact = prepared(options.work)
    build = ["-m", "compiler", "build", "--model", str(checkpoint), "--output", str(artifact)]
    commands = {"python -c pass": ["-c", "pass"], "--help": ["-m", "compiler", "--help"], "build, unchanged": build}
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.runs + 1):
        for name, arguments in commands.items():
            found[name].append(seconds(arguments, options.work / "cache"))
    print(machine())
    for name, runs in found.items():
        print(f"{name:18} {statistics.median(runs[1:]):.2f} s    {' '.join(f'{s:.2f}' for s in runs[1:])}")


if __name__ == "__main__":
    main()
