"""`python -m tests.cases [NUMBER...]`: print one line for each row with its verdict; exit code 1 unless all are right.

right      every case of the row has the right outcome
WRONG      another outcome; the line below says which
CRASH      an exception that is no assertion
no case    the row has no executable case
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import traceback
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from tests.cases.case import Case, load_cases
from tests.cases.rows import ROWS


def main() -> int:
    """Run the cases and print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cases", description="Run the cases of real users' inputs.")
    parser.add_argument("rows", nargs="*", type=int, metavar="NUMBER", help="Rows to run [default: all].")
    parser.add_argument("--no-builds", action="store_true", help="Leave out cases that run a real compiler.")
    options = parser.parse_args()
    by_row: dict[int, list[Case]] = {row: [] for row in ROWS}
    for one in load_cases():
        if not (one.builds and options.no_builds):
            by_row.setdefault(one.row, []).append(one)
    verdicts = Counter[str]()
    for row in options.rows or sorted(by_row):
        cases = by_row.get(row, [])
        for one in cases:
            verdict, why = _run(one)
            verdicts[verdict] += 1
            _line(row, verdict, one.title, why)
        if not cases:
            verdicts["no case"] += 1
            _line(row, "no case", ROWS.get(row, "unknown row"), "")
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())))
    return 0 if set(verdicts) == {"right"} else 1


def _run(one: Case) -> tuple[str, str]:
    """Verdict, and a line that says why it is not right."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                one.check(Path(scratch))
        except AssertionError as error:
            return "WRONG", str(error).strip() or traceback.format_exc().splitlines()[-2].strip()
        except Exception as error:  # noqa: BLE001  # a crash is one row's verdict and does not end the table
            return "CRASH", f"{type(error).__name__}: {error}"
    return "right", ""


def _line(row: int, verdict: str, title: str, why: str) -> None:
    print(f"{row:>4}  {verdict:<8}  {title}")
    if why:
        print(f"      {' '.join(why.split())[:300]}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
