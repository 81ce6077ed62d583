"""Weights of a checkpoint as float32 matrices, read in blocks of whole rows."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from compiler.errors import CheckpointError, MemoryCeilingError
from compiler.model.layout import join_rows
from compiler.model.lazy import ITEMSIZE, flatten, take, unflatten
from compiler.model.ops import run
from compiler.model.roles import TensorId, axis_sizes
from compiler.storage.checkpoints.gather import BlockReader, Cut
from compiler.storage.files.cast import cast_bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from compiler.model.config import ModelConfig
    from compiler.model.lazy import Lazy
    from compiler.quantization.format import Values
    from compiler.storage.checkpoints.checkpoint import Checkpoint
    from compiler.storage.checkpoints.gather import Block

    Place = tuple[slice, ...]

BLOCK = 4 << 20


class Matrices:
    """Linear layers `wanted` of a checkpoint. `buffers`: number of buffers, as large as a block's bits in the
    checkpoint, that work on a block takes; `max_memory`: ceiling of all, in bytes. Raises MemoryCeilingError.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[TensorId, Lazy],
        wanted: list[TensorId],
        max_memory: int,
        buffers: int,
    ) -> None:
        sizes = axis_sizes(config)
        self.lazies = {t: run(join_rows((t,), sizes), [tensors[t]])[0] for t in wanted}
        self.limit = min(BLOCK, max_memory // buffers)
        widest = max(ITEMSIZE[m.source_dtype] * m.shape[-1] for m in self.lazies.values()) if wanted else 0
        if widest > self.limit:
            raise MemoryCeilingError(
                f"{buffers} buffers of one row take {buffers * widest:,} bytes; the ceiling is {max_memory:,} bytes",
                hint=f"pass `--max-memory` of at least {buffers * widest}",
            )

    def nbytes(self, tensor: TensorId) -> int:
        """Bytes of the matrix in the checkpoint."""
        return prod(self.lazies[tensor].shape) * ITEMSIZE[self.lazies[tensor].source_dtype]

    def shape(self, tensor: TensorId) -> tuple[int, ...]:
        """Shape [experts, out, in]."""
        return self.lazies[tensor].shape

    def opened(self, checkpoint: Checkpoint, files: Mapping[str, int]) -> Reader:
        """Reader from the open `files` of `checkpoint.opened`."""
        return Reader(self, BlockReader(checkpoint.tensors, files, self.limit))


class Reader:
    """Reader of matrices from open files."""

    def __init__(self, matrices: Matrices, gather: BlockReader) -> None:
        self._matrices, self._gather = matrices, gather

    def blocks(self, tensor: TensorId) -> Iterator[tuple[Place, Values]]:
        """Blocks: place in [experts, out, in], and values. Raises CheckpointError (NaN or infinite)."""
        return self._blocks(self._matrices.lazies[tensor])

    def sampled(self, tensor: TensorId, rows: int) -> Iterator[tuple[Place, Values]]:
        """`blocks` of about `rows` evenly spaced rows of every matrix; places count these rows."""
        lazy = self._matrices.lazies[tensor]
        axis = len(lazy.shape) - 2
        every = max(lazy.shape[axis] // rows, 1)
        cut = take(lazy, axis, 0, lazy.shape[axis] // every * every)
        return self._blocks(flatten(take(unflatten(cut, axis, every), axis + 1, 0, 1), axis))

    def whole(self, lazy: Lazy) -> Values:
        """Values of a small tensor."""
        values = np.empty(lazy.shape, np.float32)
        for place, block in self._blocks(lazy):
            values[place] = block
        return values

    def _blocks(self, lazy: Lazy) -> Iterator[tuple[Place, Values]]:
        cut = Cut(lazy, self._matrices.limit)
        for block in cut.blocks():
            values = self._float32(cut, block)
            # The sum finds almost all finite blocks without a second array.
            if not np.isfinite(values.sum()) and not np.isfinite(values).all():
                raise CheckpointError(
                    f"NaN or infinite values in {', '.join(sorted({p.source for p in lazy.pieces}))} of the checkpoint",
                    hint="download it again; if its digests are right, the published checkpoint is damaged",
                )
            yield tuple(slice(b, b + n) for b, n in zip(block.begin, block.shape, strict=True)), values

    def _float32(self, cut: Cut, block: Block) -> Values:
        dtype = cut.tensor.source_dtype
        bits = np.empty(block.shape, f"u{ITEMSIZE[dtype]}")
        self._gather.fill(cut, block, bits)
        out = np.empty(bits.size, np.uint32)
        cast_bits(bits.reshape(-1), dtype, out, "F32")
        return out.view(np.float32).reshape(block.shape)
