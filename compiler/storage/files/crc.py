"""CRC-32 of files at memory speed: detects damage in transit or at rest, not tampering.

The CRC is zlib's (ISO 3309), which S3 too stores for a whole object (`ChecksumCRC32`, type FULL_OBJECT). It is written
like a digest: `crc32:` and 8 lower-case hexadecimal digits. Several threads read pieces of a file, and the CRCs of the
pieces are combined. zlib-ng computes the same CRC as the standard library's zlib, several times faster.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

from zlib_ng.zlib_ng import crc32, crc32_combine

if TYPE_CHECKING:
    from pathlib import Path

Crc: TypeAlias = str
"""`crc32:<8 hexadecimal digits>`."""

PIECE = 32 << 20
"""Bytes of a file per task of a thread."""
_READ = 512 << 10
"""Bytes per read: still in the core's cache when the CRC is computed."""


def crc_text(crc: int) -> Crc:
    """A CRC as text."""
    return f"crc32:{crc:08x}"


def crc_file(path: Path, threads: int | None = None) -> Crc:
    """CRC of a file's bytes, read by `threads` threads (None: one per core). Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(file).st_size
        begins = range(0, size, PIECE)
        if len(begins) < 2:
            return crc_text(_crc_of(file, 0, size))
        with ThreadPoolExecutor(min(threads or len(os.sched_getaffinity(0)), len(begins)), "crc") as pool:
            ends = [min(begin + PIECE, size) for begin in begins]
            total = 0
            for begin, end, crc in zip(
                begins, ends, pool.map(lambda b, e: _crc_of(file, b, e), begins, ends), strict=True
            ):
                total = crc32_combine(total, crc, end - begin)
        return crc_text(total)
    finally:
        os.close(file)


def _crc_of(file: int, begin: int, end: int) -> int:
    buffer = memoryview(bytearray(min(_READ, max(end - begin, 1))))
    crc = 0
    while begin < end:
        count = os.preadv(file, [buffer[: end - begin]], begin)
        if count == 0:
            raise OSError(f"the file became shorter while it was read: {end - begin} bytes are missing")
        crc = crc32(buffer[:count], crc)
        begin += count
    return crc
