"""Tensors that have not been read yet: the place of each of their elements in the source tensors.

A `Lazy` of shape (4, 6) that joins two source tensors `a` (2, 6) and `b` (2, 6), the second transposed in its file:

    Piece(source="a", start=0, at=(0, 0), shape=(2, 6), strides=(6, 1))
    Piece(source="b", start=0, at=(2, 0), shape=(2, 6), strides=(1, 2))

Element `i` of a piece is element `start + sum(i * strides)` of its source, and element `at + i` of the Lazy. Elements
that no piece covers are zero. A stride of 0 repeats. All functions are arithmetic on these tuples and read nothing, so
the plan of a 70B model takes as long as that of a tiny one; `pipeline/rank_files.py` copies the same pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Literal

import numpy as np

ITEMSIZE = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes per element, by the dtype names of the safetensors format."""


Fold = Literal["", "plus_one", "l2_rows"]
"""Steps that change values and have no inverse: w + 1 (Gemma's norms), w / |w| of every row (Baichuan 2's head)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Strided block of one source tensor. `start` and `strides` count source elements."""

    source: str
    start: int
    at: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quantize:
    """W * columns * steps rounded to the number format `format`, of a tensor [..., out, in].

    `format`: by its name in `compiler.quantization.formats`. `steps`: units of the format in 1.0, [..., out] of every
    row, or [..., out, groups] of every group of neighbors in a row. `columns` [..., in]: factors of columns, from
    smoothing; None: 1. Both float32.
    """

    steps: Lazy
    columns: Lazy | None
    format: str


@dataclass(frozen=True, slots=True)
class Packing:
    """Packing of integers of `bits` bits, the last step of a layout: 4, or 8, which are packed into words alone.

    For every run of 2 * `distance` neighbors of four bits along `axis` (-1: in a row, -2: in a column):

        byte j    bits 0-3  neighbor j        bits 4-7  neighbor j + distance

    `offset` is added to every integer before. `word`: bytes of an element of the file, the first byte in its lowest
    bits; words are rows' alone.
    """

    axis: Literal[-1, -2]
    distance: int
    bits: Literal[4, 8] = 4
    offset: int = 0
    word: Literal[1, 4] = 1

    @property
    def rows(self) -> int:
        """Number of rows that must be packed together."""
        return 2 * self.distance if self.axis == -2 else 1

    @property
    def integers(self) -> int:
        """Number of integers in an element of the file."""
        return 8 * self.word // self.bits

    def shape(self, unpacked: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the packed tensor. Raises ValueError where the axis does not divide into runs."""
        axis, run = len(unpacked) + self.axis, max(2 * self.distance if self.bits == 4 else 1, self.integers)
        if unpacked[axis] % run:
            raise ValueError(f"axis {axis} of {unpacked} does not divide into runs of {run}")
        return _with(unpacked, axis, unpacked[axis] // self.integers)


@dataclass(frozen=True, slots=True)
class Lazy:
    """Tensor to be written: `shape`, `dtype`, and the pieces that fill it, which never overlap.

    `source_dtype`: dtype of the sources; where a join has sources of several, a wider one that holds them all exactly.
    With `dtype == source_dtype` and no `fold`, raw bits are copied. Otherwise the values change: they are folded (a
    step of `model/fold.py`) and then cast, or they are quantized. A packed tensor has fewer elements in its file than
    in `shape`: see `stored_shape`.
    """

    shape: tuple[int, ...]
    dtype: str
    source_dtype: str
    pieces: tuple[Piece, ...]
    fold: Fold = ""
    quantize: Quantize | None = None
    packing: Packing | None = None

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in its file."""
        return self.packing.shape(self.shape) if self.packing else self.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in its file."""
        return prod(self.stored_shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class RankPlan:
    """File of one rank: its name, and its tensors in file order."""

    file: str
    tensors: tuple[tuple[str, Lazy], ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for _, tensor in self.tensors)


def whole(source: str, shape: tuple[int, ...], dtype: str) -> Lazy:
    """Lazy that is a whole source tensor, in row-major order."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    piece = Piece(source, 0, (0,) * len(shape), shape, tuple(reversed(strides)))
    return Lazy(shape, dtype, dtype, (piece,))


def cast(tensor: Lazy, dtype: str) -> Lazy:
    return replace(tensor, dtype=dtype)


def _with(values: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    return (*values[:axis], value, *values[axis + 1 :])


def take(tensor: Lazy, axis: int, start: int, stop: int) -> Lazy:
    """Slice of a tensor: elements `start` to `stop` of one axis."""
    pieces = []
    for piece in tensor.pieces:
        low = max(start, piece.at[axis])
        high = min(stop, piece.at[axis] + piece.shape[axis])
        if low < high:
            skip = (low - piece.at[axis]) * piece.strides[axis]
            pieces.append(
                Piece(
                    piece.source,
                    piece.start + skip,
                    _with(piece.at, axis, low - start),
                    _with(piece.shape, axis, high - low),
                    piece.strides,
                )
            )
    return replace(tensor, shape=_with(tensor.shape, axis, stop - start), pieces=tuple(pieces))


def concat(tensors: list[Lazy], axis: int) -> Lazy:
    """Concatenate tensors along `axis`. All other sizes must agree, and the dtypes of sources that are not floats."""
    tensors = _widened(tensors)
    first, pieces, offset = tensors[0], [], 0
    for tensor in tensors:
        if _with(tensor.shape, axis, 0) != _with(first.shape, axis, 0) or tensor.dtype != first.dtype:
            raise ValueError(f"cannot join {tensor.shape} {tensor.dtype} to {first.shape} {first.dtype} on axis {axis}")
        if tensor.fold or first.fold:
            raise ValueError(f"cannot join folded tensors ({tensor.fold or first.fold}): a fold is the last step")
        if tensor.source_dtype != first.source_dtype:
            raise ValueError(f"cannot join sources of {tensor.source_dtype} and {first.source_dtype}")
        pieces += [replace(p, at=_with(p.at, axis, p.at[axis] + offset)) for p in tensor.pieces]
        offset += tensor.shape[axis]
    return replace(first, shape=_with(first.shape, axis, offset), pieces=tuple(pieces))


def _widened(tensors: list[Lazy]) -> list[Lazy]:
    """The tensors with one dtype that holds all of theirs exactly: readers widen the pieces of a narrower source."""
    found = {tensor.source_dtype for tensor in tensors}
    as_stored = all(tensor.dtype == tensor.source_dtype for tensor in tensors)
    if len(found) == 1 or not as_stored or not found <= {"F64", "F32", "F16", "BF16"}:
        return tensors
    common = "F64" if "F64" in found else "F32"
    return [replace(tensor, dtype=common, source_dtype=common) for tensor in tensors]


def pad(tensor: Lazy, axis: int, size: int) -> Lazy:
    """Pad `axis` with zeros at its end, up to `size`."""
    return replace(tensor, shape=_with(tensor.shape, axis, size))


def permute(tensor: Lazy, order: tuple[int, ...]) -> Lazy:
    def pick(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(values[i] for i in order)

    pieces = tuple(Piece(p.source, p.start, pick(p.at), pick(p.shape), pick(p.strides)) for p in tensor.pieces)
    return replace(tensor, shape=pick(tensor.shape), pieces=pieces)


def unflatten(tensor: Lazy, axis: int, inner: int) -> Lazy:
    """Split an axis of size n into two axes (n // inner, inner)."""
    size = tensor.shape[axis]
    if size % inner:
        raise ValueError(f"axis {axis} of {tensor.shape} does not divide by {inner}")
    pieces: list[Piece] = []
    for piece in tensor.pieces:
        low, high = piece.at[axis], piece.at[axis] + piece.shape[axis]
        # Whole rows of the new matrix are one piece; parts that begin or end inside a row are pieces of their own.
        first_whole, last_whole = -(-low // inner) * inner, high // inner * inner
        inside_one_row = first_whole > last_whole
        bounds = [low, high] if inside_one_row else sorted({low, first_whole, last_whole, high})
        for begin, end in pairwise(bounds):
            rows = max((end - begin) // inner, 1)
            columns = (end - begin) // rows
            step = piece.strides[axis]
            pieces.append(
                Piece(
                    piece.source,
                    piece.start + (begin - low) * step,
                    (*piece.at[:axis], begin // inner, begin % inner, *piece.at[axis + 1 :]),
                    (*piece.shape[:axis], rows, columns, *piece.shape[axis + 1 :]),
                    (*piece.strides[:axis], step * inner, step, *piece.strides[axis + 1 :]),
                )
            )
    shape = (*tensor.shape[:axis], size // inner, inner, *tensor.shape[axis + 1 :])
    return replace(tensor, shape=shape, pieces=tuple(pieces))


def flatten(tensor: Lazy, axis: int) -> Lazy:
    """Join axes `axis` and `axis + 1`, of sizes (a, b), to one axis of size a * b."""
    inner = tensor.shape[axis + 1]
    pieces: list[Piece] = []
    for piece in tensor.pieces:
        rows, columns = piece.shape[axis : axis + 2]
        outer_step, step = piece.strides[axis : axis + 2]
        one_run = rows == 1 or (columns == inner and (outer_step == step * inner or columns == 1))
        if columns == 1 and inner == 1:
            step = outer_step
        for row in range(1) if one_run else range(rows):
            at = (piece.at[axis] + row) * inner + piece.at[axis + 1]
            pieces.append(
                Piece(
                    piece.source,
                    piece.start + row * outer_step,
                    (*piece.at[:axis], at, *piece.at[axis + 2 :]),
                    (*piece.shape[:axis], rows * columns if one_run else columns, *piece.shape[axis + 2 :]),
                    (*piece.strides[:axis], step, *piece.strides[axis + 2 :]),
                )
            )
    shape = (*tensor.shape[:axis], tensor.shape[axis] * inner, *tensor.shape[axis + 2 :])
    return replace(tensor, shape=shape, pieces=tuple(pieces))


def insert_axis(tensor: Lazy, axis: int, times: int) -> Lazy:
    """Insert an axis of size `times` along which the tensor repeats (stride 0)."""
    pieces = tuple(
        Piece(
            p.source,
            p.start,
            (*p.at[:axis], 0, *p.at[axis:]),
            (*p.shape[:axis], times, *p.shape[axis:]),
            (*p.strides[:axis], 0, *p.strides[axis:]),
        )
        for p in tensor.pieces
    )
    return replace(tensor, shape=(*tensor.shape[:axis], times, *tensor.shape[axis:]), pieces=pieces)


def read(tensor: Lazy, source: Callable[[str], np.ndarray]) -> np.ndarray:
    """Read a tensor as raw bits (unsigned integers of the source dtype's width), without casts and folds.

    `source(name)`: a source tensor as a flat array of such integers, widened where it is narrower. For tests and small
    tensors; `pipeline/rank_files.py` copies the same pieces block by block under a memory ceiling.
    """
    out = np.zeros(tensor.shape, dtype=f"u{ITEMSIZE[tensor.source_dtype]}")
    for piece in tensor.pieces:
        flat = source(piece.source)
        block = np.lib.stride_tricks.as_strided(
            flat[piece.start :],
            piece.shape,
            [step * flat.itemsize for step in piece.strides],
            writeable=False,
        )
        out[tuple(slice(a, a + n) for a, n in zip(piece.at, piece.shape, strict=True))] = block
    return out
