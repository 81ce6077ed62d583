"""Read blocks of a `Lazy` from the files of a checkpoint.

A block is a box of the output, row-major. Its elements lie in the source as runs; three ways to fetch them:

    one run, or runs of at least RUN bytes   `preadv` straight into the block
    shorter runs (the columns of a           `preadv` of whole source rows into a window, then a strided numpy
    copy row-parallel shard, transposes)
    no source                                zeros

Windows begin and end at multiples of the widest stride, so that they are the same for all ranks that cut a
matrix by columns: the second rank finds the rows already read.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate, product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import CheckpointError
from compiler.model.lazy import ITEMSIZE
from compiler.storage.files.cast import cast_bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from compiler.model.lazy import Lazy, Piece
    from compiler.storage.checkpoints.checkpoint import SourceTensor

RUN = 16 << 10
"""Bytes: shorter runs are cheaper to copy out of a window than to fetch with a system call each."""

_WIDENED = 1 << 14
"""Elements of a narrower source that are cast at a time."""


@dataclass(frozen=True, slots=True)
class Block:
    """A box of the output of `Cut.tensor`: first index and size on each axis."""

    begin: tuple[int, ...]
    shape: tuple[int, ...]


class Cut:
    """Division of one `Lazy` into blocks of at most `limit` bytes (source dtype), in file order.

    Axes before `axis` are cut to single indices, `axis` to ranges of `rows`, axes behind it are whole. A row
    of the last axis is never cut, so `limit` must hold one; nor are rows that are packed together. If a piece needs
    a window, `rows` is so small that the window of a block does not exceed `limit` either.
    """

    def __init__(self, tensor: Lazy, limit: int) -> None:
        self.tensor = tensor
        itemsize = ITEMSIZE[tensor.source_dtype]
        self.axis = 0
        while self.axis < len(tensor.shape) - 1 and itemsize * prod(tensor.shape[self.axis + 1 :]) > limit:
            self.axis += 1
        rows = limit // max(itemsize * prod(tensor.shape[self.axis + 1 :]), 1) if tensor.shape else 1
        for piece in tensor.pieces:
            stride = piece.strides[self.axis] if tensor.shape else 0
            if stride == max(piece.strides, default=0) and itemsize * _run(piece.shape, piece.strides) < RUN:
                rows = min(rows, limit // max(stride * itemsize, 1))
        together = tensor.packing.rows if tensor.packing and self.axis == len(tensor.shape) - 2 else 1
        self.rows = max(rows // together, 1) * together
        self.pieces = sorted(tensor.pieces, key=lambda p: p.at[self.axis] if p.at else 0)
        self._begins = [p.at[self.axis] if p.at else 0 for p in self.pieces]
        ends = (p.at[self.axis] + p.shape[self.axis] if p.at else 1 for p in self.pieces)
        self._ends = list(accumulate(ends, max))
        self.covered = sum(prod(p.shape) for p in self.pieces) == prod(tensor.shape)

    def blocks(self) -> Iterator[Block]:
        shape, axis = self.tensor.shape, self.axis
        if 0 in shape:
            return
        if not shape:
            yield Block((), ())
            return
        inner = shape[axis + 1 :]
        for outer in product(*(range(size) for size in shape[:axis])):
            for begin in range(0, shape[axis], self.rows):
                rows = min(self.rows, shape[axis] - begin)
                yield Block((*outer, begin, *(0,) * len(inner)), (*(1,) * axis, rows, *inner))

    def pieces_of(self, block: Block) -> list[Piece]:
        """Pieces that may overlap `block`."""
        if not block.shape:
            return self.pieces
        begin, rows = block.begin[self.axis], block.shape[self.axis]
        return self.pieces[bisect_right(self._ends, begin) : bisect_left(self._begins, begin + rows)]


def _run(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Number of consecutive output elements, from the start of any row, that are consecutive in the source too."""
    run = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size == 1:
            continue
        if stride != run:
            break
        run *= size
    return run


def _part(array: np.ndarray, index: tuple[Any, ...]) -> np.ndarray:
    """View of `array[index]`, even of a single element."""
    part: np.ndarray = array[(*index, ...)]
    return part


class BlockReader:
    """Reader of blocks, one instance per thread. Holds one window of `window` bytes."""

    def __init__(self, tensors: Mapping[str, SourceTensor], files: Mapping[str, int], window: int) -> None:
        """`files`: open file descriptors by tensor name."""
        self._tensors = tensors
        self._files = files
        self._window = np.empty(window, dtype=np.uint8)
        self._held = ("", 0, 0)

    def fill(self, cut: Cut, block: Block, out: np.ndarray) -> None:
        """Copy the bits of `block` into `out`: contiguous, of the block's shape, unsigned integers as wide as the
        source dtype.

        Raises CheckpointError if a file ends early (it was complete when its header was read).
        """
        if not cut.covered:
            out.fill(0)
        for piece in cut.pieces_of(block):
            start, shape = piece.start, []
            places: list[slice] = []
            for at, size, stride, begin, rows in zip(
                piece.at, piece.shape, piece.strides, block.begin, block.shape, strict=True
            ):
                low, high = max(at, begin), min(at + size, begin + rows)
                if low >= high:
                    break
                start += (low - at) * stride
                places.append(slice(low - begin, high - begin))
                shape.append(high - low)
            else:
                source, part = self._tensors[piece.source], _part(out, tuple(places))
                if source.dtype == cut.tensor.source_dtype:
                    self._copy(source, start, tuple(shape), piece.strides, part)
                else:
                    self._widen(source, start, tuple(shape), piece.strides, part, cut.tensor.source_dtype)

    def _widen(
        self,
        source: SourceTensor,
        start: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        out: np.ndarray,
        dtype: str,
    ) -> None:
        """`_copy` of a narrower source, cast to `dtype` a few rows at a time."""
        count = prod(shape)
        longest = max(range(len(shape)), key=lambda axis: shape[axis], default=0)
        if count <= _WIDENED or shape[longest] == 1:
            narrow = np.empty(shape, f"u{ITEMSIZE[source.dtype]}")
            self._copy(source, start, shape, strides, narrow)
            wide = np.empty(count, out.dtype)
            cast_bits(narrow.reshape(-1), source.dtype, wide, dtype)
            out[...] = wide.reshape(shape)
            return
        half = shape[longest] // 2
        for begin, size in ((0, half), (half, shape[longest] - half)):
            part = (*(slice(None),) * longest, slice(begin, begin + size))
            self._widen(
                source,
                start + begin * strides[longest],
                (*shape[:longest], size, *shape[longest + 1 :]),
                strides,
                out[part],
                dtype,
            )

    def _copy(
        self,
        source: SourceTensor,
        start: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        out: np.ndarray,
    ) -> None:
        """Copy the source elements `start + sum(i * strides)` into `out`, which may be a strided view."""
        run = _run(shape, strides)
        elements = prod(shape)
        if run == elements and out.flags.c_contiguous:
            self._read(source, start, out.reshape(-1))
            return
        if run * out.itemsize >= RUN:
            # The trailing axes whose sizes multiply to the run are fetched at once; the others are walked.
            axes, covered = len(shape), 1
            while covered < run:
                axes -= 1
                covered *= shape[axes]
            for index in product(*(range(size) for size in shape[:axes])):
                at = start + sum(i * stride for i, stride in zip(index, strides, strict=False))
                part = _part(out, index)
                if part.flags.c_contiguous:
                    self._read(source, at, part.reshape(-1))
                else:
                    self._through_window(source, at, shape[axes:], strides[axes:], part)
            return
        self._through_window(source, start, shape, strides, out)

    def _through_window(
        self,
        source: SourceTensor,
        start: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        out: np.ndarray,
    ) -> None:
        if not shape:
            self._read(source, start, out.reshape(-1))
            return
        capacity = self._window.size // out.itemsize
        widest = max(range(len(shape)), key=lambda axis: strides[axis] if shape[axis] > 1 else -1)
        stride, count = strides[widest], shape[widest]
        span = 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True)) - (count - 1) * stride
        if span > capacity or not stride:
            if not stride:  # only repetitions are left
                self._read(source, start, out[(slice(1),) * out.ndim].reshape(-1))
                out[...] = out[(slice(1),) * out.ndim]
                return
            for i in range(count):
                place = (*(slice(None),) * widest, slice(i, i + 1))
                part_shape = (*shape[:widest], 1, *shape[widest + 1 :])
                self._through_window(source, start + i * stride, part_shape, strides, out[place])
            return
        done = 0
        while done < count:
            low = start + done * stride
            fit = (capacity // stride * stride - low % stride - span) // stride + 1
            aligned = fit >= 1
            rows = min(count - done, fit if aligned else (capacity - span) // stride + 1)
            first, last = low, low + (rows - 1) * stride + span
            if aligned:
                first, last = (
                    first // stride * stride,
                    min(-(-last // stride) * stride, source.nbytes // out.itemsize),
                )
            window = self._view(source, first, last, out.dtype)
            part = np.lib.stride_tricks.as_strided(
                window[low - first :],
                (*shape[:widest], rows, *shape[widest + 1 :]),
                [step * out.itemsize for step in strides],
                writeable=False,
            )
            out[(*(slice(None),) * widest, slice(done, done + rows))] = part
            done += rows

    def _view(self, source: SourceTensor, first: int, last: int, dtype: np.dtype) -> np.ndarray:
        """Elements `first` to `last` of a tensor, read into the window if they are not there yet."""
        name, low, high = self._held
        if name != source.name or first < low or last > high:
            self._read(source, first, self._window[: (last - first) * dtype.itemsize].view(dtype))
            self._held, low = (source.name, first, last), first
        return self._window[(first - low) * dtype.itemsize : (last - low) * dtype.itemsize].view(dtype)

    def _read(self, source: SourceTensor, start: int, out: np.ndarray) -> None:
        view = out.view(np.uint8).data
        offset = source.offset + start * out.itemsize
        while view.nbytes:
            count = os.preadv(self._files[source.name], [view], offset)
            if not count:
                raise CheckpointError(
                    f"{source.file} ends at byte {offset}, inside `{source.name}`: "
                    "it was longer when its header was read",
                    hint="let no other process write to the checkpoint, and start again",
                )
            view, offset = view[count:], offset + count
