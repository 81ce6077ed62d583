"""Print the counts of each recipe; exit code 1 if any logits are wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import recipes
from tests.conformance.compare import conform, keys_of


def main() -> int:
    """Run and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Compare with transformers.")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="Recipes to run [default: all].")
    parser.add_argument("--configs", type=int, default=50, help="Configs for each recipe [default: 50].")
    parser.add_argument("--first", type=int, default=0, help="Number of the first config [default: 0].")
    parser.add_argument("--python", default=sys.executable, help="Python of a transformers [default: this one].")
    parser.add_argument("--keep", type=Path, help="Folder in which the checkpoints stay.")
    options = parser.parse_args()
    wrong = 0
    for recipe in options.recipes or recipes.available():
        if not keys_of(recipe):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = options.keep or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            found = conform(recipe, options.configs, options.python, folder, options.first)
        wrong += len(found.wrong)
        refused, skipped = sum(found.refused.values()), sum(found.skipped.values())
        print(f"{recipe:14} equal {found.equal:3}  refused {refused:3}  wrong {len(found.wrong):3}  "
              f"not of the class {skipped:3}", flush=True)  # fmt: skip
        for reason, count in sorted(found.refused.items()):
            print(f"    refused {count:3}: {reason}")
        for one in found.wrong:
            print(f"    WRONG {one}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
