"""`push` and `pull` killed (SIGKILL) at random moments, and run again.

    python -m benchmarks.kills [push|pull] [--kills 20] [--parts 12] [--seed 0]

An artifact whose largest file has that many parts of 16 MiB, `rclone serve s3` on this machine behind a counting proxy.
In each round a command is killed at a random moment of its usual duration, then run again to its end. Afterwards the
store (or the folder) must equal the artifact byte by byte; in between, listed artifacts must be complete, and the
folder must be the old artifact or the new one. Prints the number of parts that were sent twice; goal: at most one per
thread.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.testbed import servers
from benchmarks.testbed.artifacts import content, write_random
from benchmarks.testbed.faults import Proxy, Request, proxy
from benchmarks.tinyllama import ROOT, machine
from compiler.registry.listing import listing
from compiler.registry.pull import pull
from compiler.registry.push import push
from compiler.registry.resolve import resolve
from compiler.storage.objects.flow import PART, THREADS


def moves(request: Request, what: str) -> bool:
    if what == "push":
        return request.is_part
    return request.method == "GET" and request.path.endswith("rank0.safetensors")


def kill_after(command: list[str], seconds: float) -> bool:
    """Kill a process after a delay. Returns whether it was still running."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return True
    return False


def rounds(what: str, kills: int, parts: int, work: Path, between: Proxy, source: random.Random) -> None:
    artifact = write_random(work / "artifact", 1, size=parts * PART - 5, ranks=1)
    old = write_random(work / "old", 2)
    base = f"s3://{servers.BUCKET}/{what}"
    push(artifact, f"{base}/whole/tiny@1")
    push(old, f"{base}/whole/tiny@old")
    whole = content(artifact)

    def command(number: int) -> list[str]:
        ends = {
            "push": [str(artifact), f"{base}/{number}/tiny@1"],
            "pull": [f"{base}/whole/tiny@1", str(work / f"out{number}")],
        }
        return [sys.executable, "-m", "compiler", what, *ends[what]]

    pull(f"{base}/whole/tiny@old", work / "out-1")
    started = time.monotonic()
    subprocess.run(command(-1), check=True, capture_output=True, cwd=ROOT)
    alone = time.monotonic() - started
    again: list[float] = []
    survived, number = 0, 0
    while len(again) < kills:
        if what == "pull":
            pull(f"{base}/whole/tiny@old", work / f"out{number}")
        between.requests.clear()
        moment = source.uniform(0.1, alone)
        if not kill_after(command(number), moment):
            survived += 1  # it had already ended: not counted
        else:
            if what == "push":
                for line in listing(f"{base}/{number}/"):  # killed after its last file: then it is all there
                    pull(f"{base}/{number}/tiny@{line.digest}", work / "check")
                    assert content(work / "check") == whole, "a manifest of half an artifact"
                    shutil.rmtree(work / "check")
            else:
                # The new artifact: killed between the exchange and the end of the process.
                assert content(work / f"out{number}") in (content(old), whole), "a mixture"
            subprocess.run(command(number), check=True, capture_output=True, cwd=ROOT)
            again.append(sum(moves(request, what) for request in between.requests) - parts)
            if what == "push":
                found = resolve(f"{base}/{number}/tiny@1")
                pull(found, work / "check")
                assert content(work / "check") == whole, "other bytes"
                shutil.rmtree(work / "check")
            else:
                assert content(work / f"out{number}") == whole, "other bytes"
        shutil.rmtree(work / f"out{number}", ignore_errors=True)
        number += 1
    print(
        f"{what}: {kills} kills within {alone:.1f} s, all completed and byte-identical; parts moved twice: "
        f"at most {max(again)} of {parts} (threads: {THREADS}); each: {' '.join(map(str, again))}; "
        f"{survived} had ended before the kill",
        flush=True,
    )
    assert max(again) <= THREADS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["push", "pull"], help="default: both")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--parts", type=int, default=12, help="at most 15")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(machine())
    for what in [options.what] if options.what else ["push", "pull"]:
        with (
            tempfile.TemporaryDirectory() as name,
            servers.rclone(Path(name) / "server") as endpoint,
            proxy(endpoint) as between,
        ):
            work = Path(name)
            os.environ |= servers.environment(between.url, work)
            rounds(what, options.kills, options.parts, work, between, random.Random(options.seed))


if __name__ == "__main__":
    main()
