"""Print the counts of each recipe; exit code 1 if any logits are wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import recipes
from tests.conformance.compare import Outcomes, conform, keys_of


def main() -> int:
    """Run and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Compare with transformers.")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="Recipes to run [default: all].")
    parser.add_argument("--configs", type=int, default=50, help="Configs of the class for each recipe [default: 50].")
    parser.add_argument("--first", type=int, default=0, help="Number of the first config [default: 0].")
    parser.add_argument("--python", default=sys.executable, help="Python of a transformers [default: this one].")
    parser.add_argument("--keep", type=Path, help="Folder in which the checkpoints stay.")
    options = parser.parse_args()
    total = Outcomes()
    for recipe in options.recipes or recipes.available():
        if not keys_of(recipe):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = options.keep or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            found = conform(recipe, options.configs, options.python, folder, options.first)
        print(f"{recipe:14} {_counts(found)}  largest difference {found.largest:.1e}", flush=True)
        for kind in ("newer", "refused", "skipped"):
            for reason, count in sorted(getattr(found, kind).items()):
                print(f"    {kind} {count:3}: {reason}")
        for one in found.wrong:
            print(f"    WRONG {one}", flush=True)
        total.add(found)
    print(f"{'all':14} {_counts(total)}  largest difference {total.largest:.1e}")
    return 1 if total.wrong else 0


def _counts(found: Outcomes) -> str:
    return (f"equal {found.equal:4}  as in newer {found.newer.total():3}  refused {found.refused.total():4}  "
            f"wrong {len(found.wrong):3}  not of the class {found.skipped.total():3}")  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
