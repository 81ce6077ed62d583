"""Decode and prefill speed of a bfloat16 artifact (tp 1) against transformers, eager and under torch.compile.

    python -m benchmarks.decode --work DIR [--runs 3] [--batches 1,2,4,8]

The same random TinyLlama for all; 128 tokens of prompt, 32 decode steps, greedy. The modes alternate, each in a fresh
process, which answers three times; its best time counts, without compilation and first touches. Prints the median over
the processes: decode tokens per second (all rows together), the fraction of the machine's read bandwidth that reading
every weight once per step takes, prefill tokens per second, and our ratios to both peers. The work folder keeps
checkpoint, artifact and torch.compile's cache for the next run; it needs 10 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.tinyllama import ROOT, machine, prepared, weight_bytes_of_a_token

MODES = ("artifact", "compile", "eager")
PROMPT, STEPS = 128, 32

_BANDWIDTH = """
import time, torch
data = torch.ones(1 << 29)  # 2 GiB of float32
best = float("inf")
for _ in range(7):
    begun = time.perf_counter()
    data.sum()
    best = min(best, time.perf_counter() - begun)
print(data.numel() * data.itemsize / best)
"""


def bandwidth() -> float:
    """Read bandwidth of all cores in bytes per second: the best of seven sums over 2 GiB."""
    run = subprocess.run([sys.executable, "-c", _BANDWIDTH], check=True, capture_output=True, text=True)
    return float(run.stdout)


def measure(mode: str, folder: Path, batch: int, work: Path) -> tuple[float, float]:
    """Decode and prefill tokens per second of one process."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.one", mode, str(folder), f"--batch={batch}", f"--prompt={PROMPT}",
         f"--new={STEPS + 1}", "--rounds=3"],
        check=True, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")},
    )  # fmt: skip
    rounds = [json.loads(line) for line in run.stdout.splitlines()]
    decode = min(r["last"] - r["first"] for r in rounds)
    prefill = min(r["first"] - r["begun"] for r in rounds)
    return batch * STEPS / decode, batch * PROMPT / prefill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batches", default="1,2,4,8")
    options = parser.parse_args()
    checkpoint, artifact = prepared(options.work)
    folders = {"artifact": artifact, "compile": checkpoint, "eager": checkpoint}
    print(machine())
    print("| batch | mode | decode tok/s | of bandwidth | ours / it | prefill tok/s | ours / it |")
    print("|---|---|---|---|---|---|---|")
    for batch in map(int, options.batches.split(",")):
        found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
        read = []
        for _ in range(options.runs):
            read.append(bandwidth())
            for mode in MODES:
                found[mode].append(measure(mode, folders[mode], batch, options.work))
        limit = statistics.median(read)
        medians = {
            mode: [statistics.median(column) for column in zip(*rows, strict=True)] for mode, rows in found.items()
        }
        ours = medians["artifact"]
        for mode, (decode, prefill) in medians.items():
            part = decode / batch * weight_bytes_of_a_token() / limit
            print(
                f"| {batch} | {mode} | {decode:.1f} | {part:.0%} of {limit / 1e9:.1f} GB/s | {ours[0] / decode:.2f} "
                f"| {prefill:.0f} | {ours[1] / prefill:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
