"""Concurrent readers and writers of one tag: each reader gets one complete artifact, however fast the tag moves.

    python -m benchmarks.readers [--readers 8] [--writers 2] [--rounds 200] [--store URI]

Writers are processes that repeatedly push a new artifact and promote it. Readers are processes that pull the tag into a
folder of their own, and read that folder through one open descriptor. Every file of an artifact holds its number, so a
mixture has two numbers. The store is a folder by default.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.testbed import artifacts
from benchmarks.tinyllama import machine
from compiler.artifact.manifest import ArtifactFile
from compiler.registry.pull import pull
from compiler.registry.push import push
from compiler.registry.refs import history, promote
from compiler.storage.files.digest import OCTETS, digest_bytes


def write(folder: Path, number: int) -> Path:
    """Write an artifact whose files all hold `number`."""
    data = f"{number:09d}".encode() * 1000
    for path in artifacts.CONTENT:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    files = tuple(
        ArtifactFile(path=path, media_type=OCTETS, digest=digest_bytes(data), size=9000) for path in artifacts.CONTENT
    )
    (folder / "manifest.json").write_bytes(artifacts.manifest(files=files).to_bytes())
    return folder


def writer(store: str, work: Path, first: int, rounds: int) -> None:
    for number in range(first, first + rounds):
        promote(push(write(work / f"from{first}", number), store).address)


def numbers(folder: Path) -> set[bytes]:
    """Numbers in the files of a folder, read through one descriptor: one artifact, even while it is exchanged."""
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = set()
        for path in artifacts.CONTENT:
            file = os.open(path, os.O_RDONLY, dir_fd=root)
            found.add(os.read(file, 9))
            os.close(file)
        return found
    finally:
        os.close(root)


def reader(store: str, out: Path, stop: str, count: multiprocessing.Queue[tuple[int, int]]) -> None:
    pulls, seen = 0, set()
    while not Path(stop).exists():
        pull(f"{store}tiny", out)
        found = numbers(out)
        if len(found) != 1:
            print(f"a mixture: {found}", file=sys.stderr)
            os._exit(1)
        seen |= found
        pulls += 1
    count.put((pulls, len(seen)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=200, help="of each writer")
    parser.add_argument("--store", help="default: a folder")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["LMI_COMPILE_CACHE"] = str(work / "cache")
        store = options.store or f"{work}/store/"
        promote(push(write(work / "first", 0), store).address)
        context = multiprocessing.get_context("fork")
        count: multiprocessing.Queue[tuple[int, int]] = context.Queue()
        stop = str(work / "stop")
        readers = [
            context.Process(target=reader, args=(store, work / f"out{n}", stop, count)) for n in range(options.readers)
        ]
        writers = [
            context.Process(target=writer, args=(store, work, 1 + n * options.rounds, options.rounds))
            for n in range(options.writers)
        ]
        for process in [*readers, *writers]:
            process.start()
        for process in writers:
            process.join()
        Path(stop).touch()
        found = [count.get(timeout=60) for _ in readers]
        for process in readers:
            process.join()
        assert [process.exitcode for process in [*readers, *writers]] == [0] * (len(readers) + len(writers))
        moves = len(history(f"{store}tiny@current"))
        print(
            f"{options.readers} readers, {options.writers} writers, {options.rounds} rounds: the tag moved {moves} "
            f"times; {sum(pulls for pulls, _ in found)} pulls saw one artifact each, no mixture; "
            f"different artifacts seen by each reader: {' '.join(str(seen) for _, seen in found)}"
        )


if __name__ == "__main__":
    main()
