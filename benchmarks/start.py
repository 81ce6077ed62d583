"""Time from a fresh process to the first token: an artifact against eager transformers and torch.compile.

    python -m benchmarks.start --work DIR [--runs 5] [--cold 2]

The same random 22-layer TinyLlama for all, 32 tokens of prompt, page cache warm, interpreter start included.
`compile cold` begins with an empty inductor cache, `compile warm` with the cache of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.tinyllama import ROOT, machine, prepared


def first_and_second(mode: str, folder: Path, cache: Path) -> tuple[float, float]:
    """Time from the start of the process to its first and to its second token, in seconds."""
    begun = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.one", mode, str(folder), "--prompt=32", "--new=2", "--rounds=1"],
        check=True, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
    )  # fmt: skip
    answer = json.loads(run.stdout.splitlines()[-1])
    first, second = answer["first"] - begun, answer["last"] - begun
    print(f"{mode} {first:.2f} {second:.2f}", file=sys.stderr, flush=True)
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cold", type=int, default=2, help="runs of `compile cold`, which takes minutes")
    options = parser.parse_args()
    checkpoint, artifact = prepared(options.work)
    cache = options.work / "inductor-start"
    found: dict[str, list[tuple[float, float]]] = {"artifact": [], "eager": [], "compile warm": [], "compile cold": []}
    for _ in range(options.cold):
        shutil.rmtree(cache, ignore_errors=True)
        found["compile cold"].append(first_and_second("compile", checkpoint, cache))
    for _ in range(options.runs):
        found["artifact"].append(first_and_second("artifact", artifact, cache))
        found["eager"].append(first_and_second("eager", checkpoint, cache))
        found["compile warm"].append(first_and_second("compile", checkpoint, cache))
    print(machine())
    print("| mode | first token, s | it / ours | second token, s | it / ours | all first |")
    print("|---|---|---|---|---|---|")
    ours = [statistics.median(column) for column in zip(*found["artifact"], strict=True)]
    for mode, runs in found.items():
        if not runs:  # `--cold 0`
            continue
        first, second = (statistics.median(column) for column in zip(*runs, strict=True))
        every = " ".join(f"{run[0]:.2f}" for run in runs)
        print(f"| {mode} | {first:.2f} | {first / ours[0]:.1f} | {second:.2f} | {second / ours[1]:.1f} | {every} |")


if __name__ == "__main__":
    main()
