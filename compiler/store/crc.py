"""CRC-32 of files, at the speed of memory: whether bytes arrived as they were sent. No defence against tampering.

The CRC is zlib's (ISO 3309), which S3 too keeps of a whole object (`ChecksumCRC32`, type FULL_OBJECT). It is written as
digests are: `crc32:` and 8 lower-case hexadecimal digits. A file is read in pieces by several threads; the CRCs of the
pieces are then combined, as zlib's crc32_combine does: the register after A and B is that after A, moved on by as many
bits as B has, plus that after B alone.
"""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

Crc: TypeAlias = str
"""`crc32:<8 hexadecimal digits>`."""

PIECE = 32 << 20
"""Bytes of a file that one thread reads in one go."""
_READ = 512 << 10
"""Bytes at a time: they are still in the core's cache when the CRC is computed."""

_POLYNOMIAL = 0xEDB88320
"""Of CRC-32, the coefficient of x^31 in the lowest bit."""
_ONE, _X_TO_8 = 1 << 31, 1 << 23


def spelled(crc: int) -> Crc:
    return f"crc32:{crc:08x}"


def crc_file(path: Path, threads: int | None = None) -> Crc:
    """Of a file's bytes, read by `threads` threads (None: one a core). Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(file).st_size
        begins = range(0, size, PIECE)
        if len(begins) < 2:
            return spelled(_crc_of(file, 0, size))
        with ThreadPoolExecutor(min(threads or len(os.sched_getaffinity(0)), len(begins)), "crc") as pool:
            ends = [min(begin + PIECE, size) for begin in begins]
            total = 0
            for begin, end, crc in zip(
                begins, ends, pool.map(lambda b, e: _crc_of(file, b, e), begins, ends), strict=True
            ):
                total = combined(total, crc, end - begin)
        return spelled(total)
    finally:
        os.close(file)


def combined(first: int, second: int, length: int) -> int:
    """The CRC of A followed by B, from the CRC of each and the bytes of B."""
    return _times(_power_of_x(length), first) ^ second


def _crc_of(file: int, begin: int, end: int) -> int:
    buffer = memoryview(bytearray(min(_READ, max(end - begin, 1))))
    crc = 0
    while begin < end:
        count = os.preadv(file, [buffer[: end - begin]], begin)
        if count == 0:
            raise OSError(f"the file became shorter while it was read: {end - begin} bytes are missing")
        crc = zlib.crc32(buffer[:count], crc)
        begin += count
    return crc


def _power_of_x(length: int) -> int:
    """x to the power of 8 `length`, modulo the polynomial."""
    power, square = _ONE, _X_TO_8
    while length:
        if length & 1:
            power = _times(power, square)
        square = _times(square, square)
        length >>= 1
    return power


def _times(a: int, b: int) -> int:
    """Product of two polynomials over GF(2), modulo the polynomial; the coefficient of x^0 is the highest bit."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
