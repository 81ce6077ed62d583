"""`lmi-compile convert` against `cp` followed by `sync`, on the same bytes and the same disk.

    python -m benchmarks.convert [--folder DIR] [--runs 5] [--tp 8] [--target inductor] [--small]

Writes a random bfloat16 Llama of the TinyLlama shape (22 layers, 2.2 GB) and one of four times the bytes (not with
`--small`), and converts them to the rank files of a target. A conversion is a fresh process: its time includes
interpreter start, plan, sha256 of every file and fsync. Conversions and copies alternate; the first pair does not
count. Prints the median of each, the median of the pairs' ratios, and the peak resident memory of the conversions.
Needs 27 GB of disk (`--small`: 7), and removes all files at its end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tinyllama import LAYERS, ROOT, machine

LARGE_LAYERS = 97
"""Number of layers of the model with four times the bytes: the embeddings do not grow."""

WRITE = (
    "import sys; from pathlib import Path; from benchmarks.tinyllama import write_checkpoint;"
    "write_checkpoint(Path(sys.argv[1]), int(sys.argv[2]))"
)


def run(command: list[str]) -> tuple[float, float]:
    """Run a process: wall seconds, peak resident MiB. A child's peak begins at this process's size, which is small."""
    os.sync()
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(child.pid, 0)
    elapsed = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {child.returncode}")
    return elapsed, usage.ru_maxrss / 1024


def convert(model: Path, out: Path, tp: int, target: str) -> tuple[float, float]:
    arguments = ["convert", "--model", model, "--tp", tp, "--target", target, "--output", out]
    try:
        return run([sys.executable, "-m", "compiler", *map(str, arguments)])
    finally:
        shutil.rmtree(out, ignore_errors=True)


def copy(model: Path, out: Path) -> float:
    out.mkdir()
    try:
        return run(["sh", "-c", 'cp "$1" "$2" && sync', "sh", str(model / "model.safetensors"), str(out)])[0]
    finally:
        shutil.rmtree(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--target", default="inductor")
    parser.add_argument("--small", action="store_true", help="only the model of 2.2 GB")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name).absolute()
        run([sys.executable, "-c", WRITE, str(work / "1x"), str(LAYERS)])
        pairs, peaks = [], []
        for _ in range(options.runs + 1):
            seconds, peak = convert(work / "1x", work / "out", options.tp, options.target)
            pairs.append((seconds, copy(work / "1x", work / "out")))
            peaks.append(peak)
        counted = pairs[1:]
        ours, theirs = (statistics.median(column) for column in zip(*counted, strict=True))
        ratio = statistics.median(a / b for a, b in counted)
        spread = ", ".join(f"{a:.2f}/{b:.2f}" for a, b in counted)
        print(f"convert, tp {options.tp}   {ours:6.2f} s   peak {max(peaks):5.0f} MiB")
        print(f"cp && sync       {theirs:6.2f} s")
        print(f"ratio            {ratio:6.2f}     pairs, in seconds: {spread}", flush=True)
        if options.small:
            return
        run([sys.executable, "-c", WRITE, str(work / "4x"), str(LARGE_LAYERS)])
        seconds, peak = convert(work / "4x", work / "out", options.tp, options.target)
        copied = copy(work / "4x", work / "out")
        print(f"4x model         {seconds:6.2f} s   peak {peak:5.0f} MiB   cp && sync {copied:.2f} s")


if __name__ == "__main__":
    main()
