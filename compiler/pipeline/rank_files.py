"""From a checkpoint to rank files in one streaming pass.

The plan says of each output tensor where its elements lie in the source tensors (`model/lazy.py`). A thread owns
some of the ranks and goes through their plans in step, one block of each rank after the other, so that the
ranks of a thread share what has to be read for all of them. Each rank file has one writer and is written from
front to back; the bytes do not depend on the number of threads or on the block size.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from itertools import zip_longest
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from zlib_ng.zlib_ng import crc32

from compiler.errors import MemoryCeilingError
from compiler.model.fold import fold
from compiler.model.lazy import ITEMSIZE
from compiler.pipeline.plan_checks import check_sources
from compiler.pipeline.source_values import check_source, kept_dtype, of_model
from compiler.quantization.rounding import pack, quantize
from compiler.storage.checkpoints.gather import Block, BlockReader, Cut
from compiler.storage.files.cast import cast_bits
from compiler.storage.files.direct import COUNT, PADDING, Ring
from compiler.storage.files.range import has_lost
from compiler.storage.files.writer import RankFileWriter, check_space, file_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from compiler.model.lazy import Lazy, RankPlan
    from compiler.storage.checkpoints.checkpoint import Checkpoint
    from compiler.storage.files.digest import Descriptor
    from compiler.storage.files.writer import Crc32

BLOCK = 8 << 20
"""Bytes of a block, where `max_memory` allows. With smaller ones the interpreter's share shows (4 MiB: 7 % of the whole
command for a model of 2 GB), with larger ones the buffers do.
"""

_CHANGE_WIDTH = 32
SCALES = 1 << 16
"""Bytes of the window through which scales of rows and columns are read where they do not lie side by side."""

BUFFERS = COUNT + 2
"""Buffers of a block's size that each thread holds: those of its `Ring`, a block before its cast, and the window of
`Gather`."""


class _LostValueError(Exception):
    """A block has a value that is not finite, or will not be after its cast."""


def convert(
    plans: Sequence[RankPlan],
    checkpoint: Checkpoint,
    out: Path,
    *,
    max_memory: int = 1 << 30,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    crc: Crc32 | None = crc32,
) -> list[Descriptor]:
    """Write the rank files of `plans` into the folder `out`; their descriptors in the order of `plans`.

    `max_memory`: ceiling of all buffers together, in bytes. `threads`: default the smaller of cores and
    ranks. `progress(done_bytes, total_bytes)` is called after each block, from any thread. `crc`: as `RankFile`.
    Files carry temporary names until all of them are whole; an error removes them.

    Raises MemoryCeilingError, DiskFullError, CheckpointError, RefusedError (a cast between dtypes that have none),
    NumericsError (values that are NaN or infinite, or would be after their cast).
    """
    check_sources(plans, checkpoint)
    threads, block = _budget(plans, max_memory, min(threads or os.cpu_count() or 1, len(plans)))
    total = sum(plan.nbytes for plan in plans)
    check_space(out, [(plan.file, plan.nbytes) for plan in plans])
    ordered = [file_order(plan.tensors, lambda tensor: tensor[1].nbytes) for plan in plans]
    done, lock, stop = 0, threading.Lock(), threading.Event()

    def advance(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            if progress is not None:
                progress(done, total)

    with ExitStack() as stack:
        files = stack.enter_context(checkpoint.opened())
        writers = [
            stack.enter_context(
                RankFileWriter(out / plan.file, [(name, t.dtype, t.stored_shape) for name, t in tensors], crc)
            )
            for plan, tensors in zip(plans, ordered, strict=True)
        ]

        def work(first: int) -> None:
            gather = BlockReader(checkpoint.tensors, files, block)
            scales = Scales(BlockReader(checkpoint.tensors, files, SCALES))
            _write(writers[first::threads], ordered[first::threads], gather, scales, block, advance, stop)

        with ThreadPoolExecutor(threads, "convert") as pool:
            jobs = [pool.submit(work, first) for first in range(threads)]
            try:
                finished, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
            try:
                for job in finished:
                    job.result()
            except _LostValueError:
                check_source(plans, checkpoint)
                raise
    return [replace(writer.descriptor, path=plan.file) for writer, plan in zip(writers, plans, strict=True)]


def _write(
    writers: Sequence[RankFileWriter],
    plans: Sequence[Sequence[tuple[str, Lazy]]],
    gather: BlockReader,
    scales: Scales,
    limit: int,
    advance: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Write some ranks, in step. `stop` is looked at between blocks: a thread of another rank has failed."""
    raw = np.empty(0, np.uint8)
    with Ring(limit) as ring:
        for blocks in zip_longest(*(_blocks(plan, limit) for plan in plans)):
            for writer, item in zip(writers, blocks, strict=True):
                if item is None:
                    continue
                if stop.is_set():
                    return
                cut, block = item
                tensor, count = cut.tensor, prod(block.shape)
                stored = count // tensor.packing.integers if tensor.packing else count
                nbytes = stored * ITEMSIZE[tensor.dtype]
                buffer = ring.next()
                target = _bits(writer.room(buffer, nbytes), tensor.dtype, stored)
                source = target
                if _moves(tensor):
                    gather.fill(cut, block, target.reshape(block.shape))
                else:
                    if not raw.size:
                        raw = np.empty(limit, np.uint8)
                    source = _bits(raw, tensor.source_dtype, count)
                    gather.fill(cut, block, source.reshape(block.shape))
                if of_model(tensor) and has_lost(source, tensor.source_dtype, kept_dtype(tensor)):
                    raise _LostValueError
                if source is not target:
                    _change(cut, block, source, scales, target)
                ring.submit(writer.put(buffer, nbytes))
                advance(nbytes)
        ring.drain()
    for writer in writers:
        writer.sync()


def _blocks(plan: Sequence[tuple[str, Lazy]], limit: int) -> Iterator[tuple[Cut, Block]]:
    for _, tensor in plan:
        cut = Cut(tensor, limit // (_width(tensor) // ITEMSIZE[tensor.source_dtype]))
        for block in cut.blocks():
            yield cut, block


def _width(tensor: Lazy) -> int:
    """Bytes of buffers that an element takes at the widest. A fold computes in float32, with float64 squares."""
    changes = tensor.fold or tensor.quantize
    return _CHANGE_WIDTH if changes else max(ITEMSIZE[tensor.dtype], ITEMSIZE[tensor.source_dtype])


def _moves(tensor: Lazy) -> bool:
    """Whether its bits are those of the source."""
    return tensor.dtype == tensor.source_dtype and not (tensor.fold or tensor.packing)


def _change(cut: Cut, block: Block, source: np.ndarray, scales: Scales, target: np.ndarray) -> None:
    """The bits of one block of the file into `target`, from those of the source."""
    tensor = cut.tensor
    if tensor.quantize:
        target[:] = _packed(tensor, _quantized(tensor, source, scales, block)).view(target.dtype)
    elif tensor.packing:
        target[:] = _packed(tensor, source.view(np.int8).reshape(block.shape)).view(target.dtype)
    elif tensor.fold:
        target[:] = _folded(tensor, source).reshape(-1)
    else:
        cast_bits(source, tensor.source_dtype, target, tensor.dtype)


def _folded(tensor: Lazy, source: np.ndarray) -> np.ndarray:
    """The bits of whole rows of a tensor after its fold, in its output dtype."""

    def cast(bits: np.ndarray, before: str, after: str) -> np.ndarray:
        out = np.empty(bits.size, f"u{ITEMSIZE[after]}")
        cast_bits(bits.reshape(-1), before, out, after)
        return out

    def rounded(values: np.ndarray) -> np.ndarray:
        narrow = cast(values.view(np.uint32), "F32", tensor.source_dtype)
        return cast(narrow, tensor.source_dtype, "F32").view(np.float32).reshape(values.shape)

    values = cast(source, tensor.source_dtype, "F32").view(np.float32).reshape(-1, *tensor.shape[-1:])
    return cast(fold(tensor.fold, values, rounded).view(np.uint32), "F32", tensor.dtype)


def _quantized(tensor: Lazy, source: np.ndarray, scales: Scales, block: Block) -> NDArray[np.int8]:
    step = tensor.quantize
    assert step is not None
    values = np.empty(source.size, np.uint32)
    cast_bits(source, tensor.source_dtype, values, "F32")
    steps = scales.read(step.steps, block.begin[:-1], block.shape[:-1])
    columns = None if step.columns is None else scales.read(step.columns, block.begin[:-2], block.shape[:-2])
    return quantize(values.view(np.float32).reshape(block.shape), steps, columns, step.format).view(np.int8)


def _packed(tensor: Lazy, integers: NDArray[np.int8]) -> np.ndarray:
    """As bits of the file."""
    return (pack(integers, tensor.packing) if tensor.packing else integers).view(np.uint8).reshape(-1)


class Scales:
    """Reads what belongs to the rows and columns of a block, float32, and remembers what it read last for each."""

    def __init__(self, gather: BlockReader) -> None:
        self._gather = gather
        self._held: dict[int, tuple[Lazy, tuple[int, ...], tuple[int, ...], NDArray[np.float32]]] = {}

    def read(self, tensor: Lazy, begin: tuple[int, ...], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The box at `begin` of size `shape` on the leading axes, whole on all others."""
        rest = tensor.shape[len(begin) :]
        held = self._held.get(len(begin))
        if held is None or held[0] is not tensor or held[1:3] != (begin, shape):
            out = np.empty((*shape, *rest), np.uint32)
            self._gather.fill(Cut(tensor, out.nbytes), Block((*begin, *(0,) * len(rest)), out.shape), out)
            held = self._held[len(begin)] = tensor, begin, shape, out.view(np.float32)
        return held[3]


def _bits(buffer: np.ndarray, dtype: str, count: int) -> np.ndarray:
    """The first `count` elements of a byte buffer, as unsigned integers as wide as `dtype`."""
    return buffer[: count * ITEMSIZE[dtype]].view(f"u{ITEMSIZE[dtype]}")


def _budget(plans: Sequence[RankPlan], max_memory: int, threads: int) -> tuple[int, int]:
    """Threads, and bytes of a block, that stay within `max_memory`. Raises MemoryCeilingError.

    A block holds at least one row (all of the last axis) of the widest tensor, or those that are packed together.
    """
    row, widest = max(
        (_width(t) * t.shape[-1] * (t.packing.rows if t.packing else 1), name)
        for plan in plans
        for name, t in [("", None), *plan.tensors]
        if t is not None and t.shape
    )
    row = -(-row // 64) * 64
    needed = BUFFERS * row + PADDING
    if needed > max_memory:
        raise MemoryCeilingError(
            f"one row of `{widest}` takes {row:,} bytes, and the buffers for it {needed:,}: "
            f"more than the ceiling of {max_memory:,} bytes",
            hint=f"pass `--max-memory` of at least {needed}",
        )
    threads = min(threads, max_memory // needed)
    block = max(min(BLOCK, (max_memory // threads - PADDING) // BUFFERS), row)
    return threads, block // 64 * 64
