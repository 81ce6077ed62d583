"""Rate of an artifact's check from the page cache: by CRC, against sha256 and against reading alone.

    python -m benchmarks.verify --work DIR [--gigabytes 2] [--runs 5]

One file of the size of one rank's weights. `read` is the upper limit: the same reads by the same threads, without any
work on the bytes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.tinyllama import machine
from compiler.storage.files.crc import PIECE, crc_file
from compiler.storage.files.digest import sha256_file

_READ = 512 << 10


def read_file(path: Path) -> None:
    """Read a whole file in the way of crc_file."""

    def piece(begin: int) -> None:
        buffer = memoryview(bytearray(_READ))
        for at in range(begin, begin + PIECE, _READ):
            os.preadv(file, [buffer], at)

    file = os.open(path, os.O_RDONLY)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(piece, range(0, path.stat().st_size, PIECE)))
    os.close(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    path, size = options.work / "verify.bin", int(options.gigabytes * 1e9)
    with path.open("wb") as file:
        block = os.urandom(16 << 20)
        for begin in range(0, size, len(block)):
            file.write(block[: size - begin])
    ways: dict[str, Callable[[Path], object]] = {"read": read_file, "crc32": crc_file, "sha256": sha256_file}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.runs):
        for name, way in ways.items():
            begun = time.monotonic()
            way(path)
            found[name].append(size / (time.monotonic() - begun) / 1e9)
    path.unlink()
    print(machine())
    print("| way | GB/s, median | of reading alone | all |")
    print("|---|---|---|---|")
    limit = statistics.median(found["read"])
    for name, rates in found.items():
        rate = statistics.median(rates)
        print(f"| {name} | {rate:.2f} | {rate / limit:.2f} | {' '.join(f'{r:.2f}' for r in rates)} |")


if __name__ == "__main__":
    main()
