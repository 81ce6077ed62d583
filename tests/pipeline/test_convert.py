from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from compiler.errors import (
    CheckpointError,
    DiskFullError,
    LmiCompileError,
    MemoryCeilingError,
    NumericsError,
    RefusedError,
)
from compiler.model import lazy
from compiler.model.lazy import ITEMSIZE, Lazy, Piece, RankPlan
from compiler.pipeline.rank_files import BUFFERS, convert
from compiler.storage.checkpoints import gather
from compiler.storage.checkpoints.checkpoint import Checkpoint, from_headers, open_checkpoint
from compiler.storage.checkpoints.header import read_header
from compiler.storage.files.cast import cast_bits
from compiler.storage.files.digest import sha256_file
from compiler.storage.files.direct import PADDING
from tests.storage import samples
from tests.storage.lazies import Shapes, plans

TENSORS: samples.Tensors = {
    "embed": ("BF16", (96, 64)),
    "up": ("BF16", (128, 64)),
    "down": ("BF16", (64, 128)),
    "norm": ("BF16", (64,)),
    "odd": ("BF16", (5,)),
}


def split(tp: int, dtype: str = "BF16") -> list[RankPlan]:
    """`up` and `embed` by rows, `down` by columns, the others whole, on every rank."""
    axes = {"embed": 0, "up": 0, "down": 1}
    ranks = []
    for rank in range(tp):
        tensors = []
        for name, (source_dtype, shape) in TENSORS.items():
            tensor = lazy.whole(name, shape, source_dtype)
            if name in axes:
                size = shape[axes[name]] // tp
                tensor = lazy.take(tensor, axes[name], rank * size, (rank + 1) * size)
            tensors.append((name, lazy.cast(tensor, dtype)))
        ranks.append(RankPlan(f"rank{rank}.safetensors", tuple(tensors)))
    return ranks


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    samples.checkpoint(tmp_path / "source", TENSORS, shards=2)
    return open_checkpoint(tmp_path / "source")


def bits(file: Path) -> dict[str, np.ndarray]:
    content = file.read_bytes()
    return {
        name: np.frombuffer(content, f"u{ITEMSIZE[entry.dtype]}", entry.nbytes // ITEMSIZE[entry.dtype], entry.offset)
        .reshape(entry.shape)
        for name, entry in read_header(file).items()
    }  # fmt: skip


def source_bits(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {name: array for file in checkpoint.files for name, array in bits(file).items()}


def test_rank_files_hold_the_source_bits(tmp_path: Path, source: Checkpoint) -> None:
    descriptors = convert(split(4), source, tmp_path / "out")
    whole = source_bits(source)
    assert [descriptor.path for descriptor in descriptors] == [f"rank{rank}.safetensors" for rank in range(4)]
    for rank, descriptor in enumerate(descriptors):
        file = tmp_path / "out" / descriptor.path
        assert (descriptor.digest, descriptor.size) == (sha256_file(file), file.stat().st_size)
        found = bits(file)
        assert np.array_equal(found["embed"], whole["embed"][24 * rank : 24 * rank + 24])
        assert np.array_equal(found["up"], whole["up"][32 * rank : 32 * rank + 32])
        assert np.array_equal(found["down"], whole["down"][:, 32 * rank : 32 * rank + 32])
        assert np.array_equal(found["norm"], whole["norm"])
        assert np.array_equal(found["odd"], whole["odd"])
        with safe_open(file, framework="pt") as opened:
            assert set(opened.keys()) == set(TENSORS)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [d.path for d in descriptors]


@given(
    plan=plans(), memory=st.integers(BUFFERS * 704, 33_000), ranks=st.integers(1, 3), run=st.sampled_from([4, 1 << 14])
)
def test_any_layout_under_any_ceiling(plan: tuple[Shapes, Lazy], memory: int, ranks: int, run: int) -> None:
    shapes, tensor = plan
    try:
        with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
            patch.setattr(gather, "RUN", run)
            folder = Path(name)
            data = samples.checkpoint(folder, {key: ("BF16", shape) for key, shape in shapes.items()})
            expected = lazy.read(tensor, lambda key: np.frombuffer(data[key], np.uint16))
            plan_of = [RankPlan(f"{rank}", (("t", tensor),)) for rank in range(ranks)]
            convert(plan_of, open_checkpoint(folder), folder / "out", max_memory=PADDING + memory)
            for rank in range(ranks):
                assert np.array_equal(bits(folder / "out" / f"{rank}")["t"], expected)
    except MemoryCeilingError:
        assert BUFFERS * (tensor.shape[-1] * 2 + 63) > memory


def test_bytes_do_not_depend_on_threads_or_memory(tmp_path: Path, source: Checkpoint) -> None:
    digests = {
        tuple(
            d.digest
            for d in convert(split(4), source, tmp_path / f"{threads}-{memory}", threads=threads, max_memory=memory)
        )
        for threads in (1, 2, 3, 9)
        for memory in (PADDING + 1536, 3 * PADDING + 10_000, 1 << 30)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_casts(tmp_path: Path, source: Checkpoint, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file

    torch_dtype = {"F32": torch.float32, "F16": torch.float16}[dtype]
    whole = {name: tensor for file in source.files for name, tensor in load_file(file).items()}
    convert(split(2, dtype), source, tmp_path / "out", max_memory=PADDING + 3000)
    for rank in range(2):
        found = load_file(tmp_path / "out" / f"rank{rank}.safetensors")
        expected = whole["down"][:, 64 * rank : 64 * rank + 64].to(torch_dtype)
        assert found["down"].dtype == torch_dtype
        assert torch.allclose(found["down"], expected, rtol=0, atol=0, equal_nan=True)


def test_padding_is_zero_and_repeats_repeat(tmp_path: Path, source: Checkpoint) -> None:
    tensor = lazy.pad(lazy.insert_axis(lazy.whole("up", (128, 64), "BF16"), 1, 3), 0, 130)
    convert([RankPlan("f", (("t", tensor),))], source, tmp_path, max_memory=PADDING + 6144)
    found, up = bits(tmp_path / "f")["t"], source_bits(source)["up"]
    assert np.array_equal(found[:128], np.repeat(up[:, None], 3, axis=1))
    assert not found[128:].any()


def test_progress_counts_every_byte_once(tmp_path: Path, source: Checkpoint) -> None:
    calls: list[tuple[int, int]] = []
    ranks = split(4)
    convert(ranks, source, tmp_path / "out", max_memory=PADDING + 6144, progress=lambda *call: calls.append(call))
    total = sum(plan.nbytes for plan in ranks)
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)
    assert len(calls) > 20


def test_a_ceiling_too_low_for_one_row(tmp_path: Path, source: Checkpoint) -> None:
    needed = BUFFERS * 128 + PADDING
    with pytest.raises(MemoryCeilingError, match=rf"takes 128 bytes, and the buffers for it {needed:,}") as caught:
        convert(split(2), source, tmp_path / "out", max_memory=needed - 1)
    assert caught.value.exit_code == 5
    assert str(needed) in caught.value.hint
    assert not (tmp_path / "out").exists()
    convert(split(2), source, tmp_path / "out", max_memory=needed)


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
def test_disk_full_leaves_nothing(
    tmp_path: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real, calls = getattr(os, call), 0

    def full(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.ENOSPC, "no space left on device")
        return real(*args)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DiskFullError):
        convert(split(4), source, tmp_path / "out", max_memory=PADDING + 6144)
    assert list((tmp_path / "out").iterdir()) == []


def test_disk_full_before_anything_is_written(
    tmp_path: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = split(4)
    total = sum(rank.nbytes for rank in plan)
    usage = type("Usage", (), {"free": total - 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match=f"needs {total:,} bytes, {total - 1:,} are free"):
        convert(plan, source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
@pytest.mark.parametrize("checked", [True, False])
def test_a_disk_that_is_really_full(
    tmp_path: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    if not checked:
        monkeypatch.setattr("compiler.pipeline.rank_files.check_space", lambda *_: None)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", out], check=True)
    try:
        with pytest.raises(DiskFullError, match="are free"):
            convert(split(4), source, out)
        assert list(out.iterdir()) == []
    finally:
        subprocess.run(["umount", out], check=True)


def test_a_failing_thread_stops_the_others(tmp_path: Path, source: Checkpoint) -> None:
    os.truncate(source.files[0], source.files[0].stat().st_size - 100)
    with pytest.raises(CheckpointError, match="ends at byte"):
        convert(split(4), source, tmp_path / "out", threads=4)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_kill_leaves_temporary_names_only(tmp_path: Path, source: Checkpoint) -> None:
    script = (
        "import sys, time; from pathlib import Path; from compiler.pipeline.rank_files import convert\n"
        "from compiler.storage.checkpoints.checkpoint import open_checkpoint\n"
        "from tests.pipeline.test_convert import split\n"
        "def progress(done, total):\n"
        "    if done == total:\n"
        "        print('done', flush=True); time.sleep(60)\n"
        "convert(split(2), open_checkpoint(Path(sys.argv[1])), Path(sys.argv[2]), progress=progress)\n"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", script, str(source.folder), str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "done\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["rank0.safetensors.part", "rank1.safetensors.part"]
    convert(split(2), source, tmp_path / "out")
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["rank0.safetensors", "rank1.safetensors"]


@pytest.mark.parametrize(
    ("tensor", "error", "expected"),
    [
        (lazy.whole("gone", (4,), "BF16"), CheckpointError, "the checkpoint has None"),
        (lazy.whole("norm", (64,), "F16"), CheckpointError, "planned from `norm`"),
        (lazy.whole("norm", (65,), "BF16"), CheckpointError, "65 elements or more"),
        (
            Lazy((4,), "I8", "BF16", (Piece("norm", 0, (0,), (4,), (1,)),)),
            RefusedError,
            r"no cast from BF16 \(`norm`\) to I8",
        ),
    ],
)
def test_plans_that_do_not_fit_the_checkpoint(
    tmp_path: Path, source: Checkpoint, tensor: Lazy, error: type[LmiCompileError], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        convert([RankPlan("f", (("t", tensor),))], source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_headers_alone_cannot_be_converted(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="only the header of `embed`"):
        convert(split(2), from_headers({}, TENSORS), tmp_path / "out")


def test_layout_only_conversion_needs_no_torch(tmp_path: Path, source: Checkpoint) -> None:
    script = (
        "import sys; from pathlib import Path; from compiler.pipeline.rank_files import convert\n"
        "from compiler.storage.checkpoints.checkpoint import open_checkpoint\n"
        "from compiler.model.lazy import RankPlan, whole\n"
        "plan = RankPlan('f', (('w', whole('norm', (64,), 'BF16')),))\n"
        "convert([plan], open_checkpoint(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "print(sorted({'torch', 'safetensors', 'transformers'} & set(sys.modules)))\n"
    )
    arguments = [sys.executable, "-c", script, str(source.folder), str(tmp_path / "out")]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("value", "dtype", "words", "hint"),
    [
        (0x7FC1, "BF16", "is not finite in 1 tensor.*`up`: 1 NaN", "another revision"),
        (0xFF80, "F32", "is not finite in 1 tensor.*`up`: 1 infinite", "another revision"),
        (0x4780, "F16", r"beyond the range .*`up`: 1 value beyond float16 \(up to 65536\)", "--dtype bfloat16"),
    ],
)
def test_values_that_would_not_be_finite_are_named_and_nothing_is_left(
    tmp_path: Path, source: Checkpoint, value: int, dtype: str, words: str, hint: str
) -> None:
    up = source.tensors["up"]
    assert up.file is not None
    with up.file.open("r+b") as file:
        file.seek(up.offset + 2 * 777)
        file.write(value.to_bytes(2, "little"))
    with pytest.raises(NumericsError, match=f"(?s)the source itself .*{words}") as caught:
        convert(split(4, dtype), source, tmp_path / "out")
    assert hint in caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


def test_values_at_the_end_of_the_range_are_cast(tmp_path: Path, source: Checkpoint) -> None:
    up = source.tensors["up"]
    assert up.file is not None
    with up.file.open("r+b") as file:
        file.seek(up.offset)
        file.write((0x477F).to_bytes(2, "little"))
    convert(split(1, "F16"), source, tmp_path / "out")
    assert bits(tmp_path / "out" / "rank0.safetensors")["up"].view(np.float16)[0, 0] == 65280


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_sources_of_several_dtypes_are_joined(tmp_path: Path, dtype: str) -> None:
    """As bfloat16 both keep their bits: that of the wider one has been rounded once."""
    samples.checkpoint(tmp_path / "m", {"a": ("BF16", (30, 64)), "b": ("F32", (30, 64))})
    source = open_checkpoint(tmp_path / "m")
    joined = lazy.concat([lazy.whole(n, t.shape, t.dtype) for n, t in source.tensors.items()], 0)
    plan = RankPlan("rank0.safetensors", (("ab", lazy.cast(joined, dtype)),))
    convert([plan], source, tmp_path / "out")
    found = bits(tmp_path / "out" / "rank0.safetensors")["ab"]
    parts = []
    for tensor in source.tensors.values():
        out = np.empty(30 * 64, f"u{ITEMSIZE[dtype]}")
        cast_bits(np.array(tensor.bits()), tensor.dtype, out, dtype)
        parts.append(out.reshape(30, 64))
    assert np.array_equal(found, np.concatenate(parts))
