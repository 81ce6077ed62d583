"""One command in two checkouts in turn: how rows of old against new in RESULTS.md are made.

    git worktree add ../old COMMIT
    python -m benchmarks.against ../old --runs 7 -- -m compiler --help
    python -m benchmarks.against ../old --figure 'artifact \\| ([0-9.]+)' -- \\
        -m benchmarks.start --work ../work-{side} --runs 1 --cold 0

Arguments behind `--` go to Python (the checkout's `.venv/bin/python` if it has one), which runs in the checkout. The
figure is the wall time in seconds, or the number that `--figure` finds in the output. `{side}` is `old` or `new`: each
side needs work folders of its own. A warm-up of each is not counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.testbed.turns import commit, measure, table, turns_of
from benchmarks.tinyllama import machine


def main() -> None:
    turns = turns_of(sys.argv[1:], __doc__ or "", Path(__file__).resolve().parents[1])
    found = measure(turns)
    commits = ", ".join(f"{side} {commit(folder) or folder}" for side, folder in turns.checkouts.items())
    print(f"{machine()}; {commits}")
    print(table(found))


if __name__ == "__main__":
    main()
