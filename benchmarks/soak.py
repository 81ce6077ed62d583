"""Repeated launches of an artifact in fresh processes, with a count of those that do not finish.

    python benchmarks/soak.py ARTIFACT --launches 200 [--tokens 16] [--limit 120]

A launch is: load, generate with a batch of two, close. One that takes longer than `--limit` seconds is stalled: the
stacks of its processes are printed, and they are killed. Exit code 1 if any launch stalled or failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_LAUNCH = """
import sys
from compiler.runtime.generate import load
from compiler.runtime.params import GenerationParams
with load(sys.argv[1]) as model:
    prompts = [[1, 2, 3, 4, 5], [6, 7]]
    for completion in model.generate(prompts, GenerationParams(max_new_tokens=int(sys.argv[2]), ignore_eos=True)):
        print(*(token.id for token in completion.tokens))
"""
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Launch:
    """Result of one launch: `stalled` and `failed` exclude each other; `output`: the tokens that it printed."""

    seconds: float
    stalled: bool
    failed: bool
    output: str
    complaint: str


def launch(artifact: Path, tokens: int, limit: float) -> Launch:
    """Run one launch in a session of its own, and end all its processes."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", _LAUNCH, str(artifact), str(tokens)],
        cwd=_ROOT, env={**os.environ, "PYTHONPATH": str(_ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        output, complaint = process.communicate(timeout=limit)
        stalled = False
    except subprocess.TimeoutExpired:
        stalled = True
        process.send_signal(signal.SIGABRT)  # its faulthandler prints where every thread is
        output, complaint = process.communicate()
    seconds = time.monotonic() - begin
    return Launch(seconds, stalled, not stalled and process.returncode != 0, output, complaint)


def main() -> int:
    """Run all launches. Exit code 1 if one stalled, failed, or gave other tokens than the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--launches", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=16, help="tokens that every launch generates")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a launch counts as stalled")
    wanted = parser.parse_args()
    launches: list[Launch] = []
    for number in range(1, wanted.launches + 1):
        one = launch(wanted.artifact.absolute(), wanted.tokens, wanted.limit)
        launches.append(one)
        if one.stalled or one.failed:
            print(f"launch {number} {'stalled' if one.stalled else 'failed'} after {one.seconds:.1f} s", flush=True)
            print(one.complaint[-4000:], flush=True)
        elif number % 10 == 0:
            print(f"{number} of {wanted.launches}, {one.seconds:.1f} s", flush=True)
    seconds = [one.seconds for one in launches]
    stalled = sum(one.stalled for one in launches)
    failed = sum(one.failed for one in launches)
    different = sum(one.output != launches[0].output for one in launches if not one.stalled and not one.failed)
    print(
        f"{len(launches)} launches: {stalled} stalled, {failed} failed, {different} with other tokens than the first; "
        f"seconds a launch: median {statistics.median(seconds):.2f}, longest {max(seconds):.2f}"
    )
    return int(bool(stalled or failed or different))


if __name__ == "__main__":
    sys.exit(main())
