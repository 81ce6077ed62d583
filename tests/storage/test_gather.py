from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import CheckpointError
from compiler.model import lazy
from compiler.model.lazy import ITEMSIZE, Lazy, Piece
from compiler.storage.checkpoints import gather
from compiler.storage.checkpoints.checkpoint import open_checkpoint
from compiler.storage.checkpoints.gather import BlockReader, Cut
from tests.storage import samples
from tests.storage.lazies import Shapes, plans


def gathered(folder: Path, tensor: Lazy, limit: int, window: int) -> np.ndarray:
    """Read the whole tensor block by block, and check that blocks come in file order."""
    opened = open_checkpoint(folder)
    file = os.open(opened.files[0], os.O_RDONLY)
    try:
        reader = BlockReader(opened.tensors, dict.fromkeys(opened.tensors, file), window)
        cut, parts, dtype = Cut(tensor, limit), [], f"u{ITEMSIZE[tensor.source_dtype]}"
        for block in cut.blocks():
            out = np.full(block.shape, 0xABCD, dtype)
            reader.fill(cut, block, out)
            parts.append(out.reshape(-1))
    finally:
        os.close(file)
    return np.concatenate([np.empty(0, dtype), *parts]).reshape(tensor.shape)


def check(shapes: Shapes, tensor: Lazy, limit: int, window: int) -> None:
    with TemporaryDirectory() as name:
        data = samples.checkpoint(Path(name), {source: ("BF16", shape) for source, shape in shapes.items()})
        expected = lazy.read(tensor, lambda source: np.frombuffer(data[source], np.uint16))
        assert np.array_equal(gathered(Path(name), tensor, limit, window), expected)


@given(plan=plans(), limit=st.integers(64, 400), window=st.integers(1, 200), run=st.sampled_from([2, 8, 1 << 14]))
def test_blocks_of_any_size_join_to_the_tensor(plan: tuple[Shapes, Lazy], limit: int, window: int, run: int) -> None:
    shapes, tensor = plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "RUN", run)
        check(shapes, tensor, limit, window * 2)


@given(plan=plans(), limit=st.integers(64, 400), window=st.integers(1, 200), at_once=st.integers(1, 40))
def test_narrower_sources_are_widened_a_few_elements_at_a_time(
    plan: tuple[Shapes, Lazy], limit: int, window: int, at_once: int
) -> None:
    shapes, tensor = plan
    wide = replace(tensor, dtype="F32", source_dtype="F32")
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "_WIDENED", at_once)
        data = samples.checkpoint(Path(name), {source: ("BF16", shape) for source, shape in shapes.items()})
        expected = lazy.read(wide, lambda source: np.frombuffer(data[source], np.uint16).astype(np.uint32) << 16)
        assert np.array_equal(gathered(Path(name), wide, 2 * limit, window * 2), expected)


def test_an_empty_tensor_has_no_blocks() -> None:
    assert list(Cut(Lazy((3, 0), "BF16", "BF16", ()), 64).blocks()) == []


def test_a_scalar() -> None:
    check({"a": (3,)}, Lazy((), "BF16", "BF16", (Piece("a", 2, (), (), ()),)), 64, 64)


def test_blocks_respect_the_limit_and_the_window() -> None:
    whole = lazy.whole("w", (64, 64), "BF16")
    for tensor in (whole, lazy.take(whole, 1, 8, 16)):
        cut = Cut(tensor, 1024)
        for block in cut.blocks():
            assert np.prod(block.shape) * 2 <= 1024
    # 1024 bytes hold 8 source rows of 128 bytes, so a block of columns covers 8 rows although 64 would fit.
    assert next(Cut(lazy.take(whole, 1, 8, 16), 1024).blocks()).shape == (8, 8)


def test_ranks_that_cut_by_columns_share_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.checkpoint(tmp_path, {"w": ("BF16", (64, 64))})
    opened = open_checkpoint(tmp_path)
    whole, read = lazy.whole("w", (64, 64), "BF16"), 0
    real = os.preadv

    def preadv(file: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal read
        read += (count := real(file, buffers, offset))
        return count

    monkeypatch.setattr(os, "preadv", preadv)
    file = os.open(opened.files[0], os.O_RDONLY)
    reader = BlockReader(opened.tensors, {"w": file}, 1024)
    cuts = [Cut(lazy.take(whole, 1, 16 * rank, 16 * rank + 16), 1024) for rank in range(4)]
    for blocks in zip(*(cut.blocks() for cut in cuts), strict=True):
        for cut, block in zip(cuts, blocks, strict=True):
            reader.fill(cut, block, np.empty(block.shape, np.uint16))
    os.close(file)
    assert read == 64 * 64 * 2


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    samples.checkpoint(tmp_path, {"w": ("BF16", (64, 64))})
    opened = open_checkpoint(tmp_path)
    os.truncate(opened.files[0], 4096)
    file = os.open(opened.files[0], os.O_RDONLY)
    reader = BlockReader(opened.tensors, {"w": file}, 8192)
    cut = Cut(lazy.whole("w", (64, 64), "BF16"), 8192)
    with pytest.raises(CheckpointError, match="ends at byte 4096, inside `w`"):
        reader.fill(cut, next(cut.blocks()), np.empty((64, 64), np.uint16))
    os.close(file)
