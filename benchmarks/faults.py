"""Faults injected into one request of five: every pull gives the right artifact or an error.

    python -m benchmarks.faults [--faults 1000] [--seed 0]

`rclone serve s3` on this machine behind the proxy of testbed/faults.py (500, 503, SlowDown, lost answers, resets,
truncated bodies, wrong bytes up and down, late answers); in one round of eight the stored bytes themselves are damaged,
which no server reports. Pushes and pulls until that many faults are injected, and counts the outcomes. Stops at once if
a wrong artifact was accepted, an error was no LmiCompileError, a tag pointed to an incomplete artifact, or a published
artifact could not be pulled any more without faults.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.testbed import servers
from benchmarks.testbed.artifacts import content, write_random
from benchmarks.testbed.faults import FAULTS, Request, proxy
from benchmarks.tinyllama import machine
from compiler.errors import ArtifactError, LmiCompileError
from compiler.registry.pull import pull
from compiler.registry.push import push
from compiler.registry.refs import promote
from compiler.registry.resolve import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(machine())
    source, came, damaged_rounds = random.Random(options.seed), Counter[str](), 0
    with (
        tempfile.TemporaryDirectory() as name,
        servers.rclone(Path(name) / "server") as endpoint,
        proxy(endpoint) as between,
    ):
        work = Path(name)
        os.environ |= servers.environment(between.url, work)
        store = f"s3://{servers.BUCKET}/faults/"

        def faults(request: Request) -> str | None:
            del request
            return source.choice(FAULTS) if source.random() < 0.2 else None

        published: dict[int, dict[str, bytes]] = {}
        number = 0
        while between.broken.total() + damaged_rounds < options.faults:
            number += 1
            large = number % 5 == 0  # two parts
            artifact = write_random(work / "artifact", number, size=17 << 20 if large else 5000)
            between.faults = faults
            try:
                push(artifact, f"{store}tiny@{number}")
                promote(f"{store}tiny@{number}")
                came["published"] += 1
                published[number] = content(artifact)
            except LmiCompileError as error:
                came[f"push: {type(error).__name__}"] += 1
                between.faults = lambda _: None  # the same command again, without faults
                push(artifact, f"{store}tiny@{number}")
                came["published when run again"] += 1
                published[number] = content(artifact)
            if number % 8 == 0:
                between.faults = lambda _: None
                found = resolve(f"{store}tiny@{number}")
                file = source.choice([file for file in found.manifest.files if "rank" in file.path])
                data = bytearray(found.store.read(found.key(file))[0])
                data[source.randrange(len(data))] ^= 1 << source.randrange(8)
                found.store.put(found.key(file), bytes(data))
                damaged_rounds += 1
                try:
                    pull(found, work / "damaged")
                except ArtifactError:
                    came["damaged in the store: refused"] += 1
                else:
                    raise SystemExit("a damaged artifact was accepted")
                push(artifact, f"{store}tiny@{number}", repair=True)
            between.faults = faults
            before = content(work / "out") if (work / "out").exists() else {}
            try:
                pull(f"{store}tiny@{number}", work / "out")
                came["pulled"] += 1
                assert content(work / "out") == published[number], "a wrong artifact was accepted"
            except LmiCompileError as error:
                came[f"pull: {type(error).__name__}"] += 1
                now = content(work / "out") if (work / "out").exists() else {}
                assert now == before, "an error left another artifact behind"
            if len(published) > 12:  # check the oldest, and remove it to save memory
                between.faults = lambda _: None
                oldest = next(iter(published))
                pull(f"{store}tiny@{oldest}", work / "old")
                assert content(work / "old") == published.pop(oldest), "a published artifact was lost"
                came["old ones still whole"] += 1
        between.faults = lambda _: None
        for one, expected in published.items():
            pull(f"{store}tiny@{one}", work / "old")
            assert content(work / "old") == expected, "a published artifact was lost"
            came["old ones still whole"] += 1
    print(f"{between.broken.total()} faults in {len(between.requests)} requests, {damaged_rounds} damaged objects")
    print(", ".join(f"{kind} {count}" for kind, count in sorted(between.broken.items())))
    for outcome, count in sorted(came.items()):
        print(f"{outcome:40} {count}")


if __name__ == "__main__":
    main()
