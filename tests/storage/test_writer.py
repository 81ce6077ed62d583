from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import zlib
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from compiler.errors import DiskFullError, ResourceError
from compiler.model.lazy import ITEMSIZE
from compiler.storage.checkpoints.header import parse_header
from compiler.storage.files.crc import crc_text
from compiler.storage.files.digest import SAFETENSORS, Descriptor
from compiler.storage.files.direct import Ring
from compiler.storage.files.disk import PAGE
from compiler.storage.files.writer import ALIGNMENT, Planned, RankFileWriter, check_space, encode_header, file_order

PLAN: list[Planned] = [("a", "F32", (4, 8)), ("b", "I8", (3,)), ("empty", "F16", (0, 2))]
DATA = bytes(range(128)) + b"xyz"


def nbytes(planned: Planned) -> int:
    return prod(planned[2]) * ITEMSIZE[planned[1]]


def test_the_reference_implementation_reads_it(tmp_path: Path) -> None:
    with RankFileWriter(tmp_path / "f", PLAN) as file:
        for begin in range(0, len(DATA), 10):
            file.append(DATA[begin : begin + 10])
    content = (tmp_path / "f").read_bytes()
    assert file.descriptor == Descriptor(
        "f", SAFETENSORS, "sha256:" + hashlib.sha256(content).hexdigest(), len(content), crc_text(zlib.crc32(content))
    )
    arrays = load_file(tmp_path / "f")
    assert {name: (array.shape, array.tobytes()) for name, array in arrays.items()} == {
        "a": ((4, 8), DATA[:128]),
        "b": ((3,), DATA[128:]),
        "empty": ((0, 2), b""),
    }
    with safe_open(tmp_path / "f", framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


planned = st.lists(
    st.tuples(st.sampled_from(["F64", "F32", "BF16", "I8"]), st.lists(st.integers(0, 9), max_size=3)), max_size=12
)


@given(planned)
def test_alignment(tensors: list[tuple[str, list[int]]]) -> None:
    plan: list[Planned] = [(f"t{i}", dtype, tuple(shape)) for i, (dtype, shape) in enumerate(tensors)]
    ordered = file_order(plan, nbytes)
    assert sorted(ordered) == sorted(plan)
    header = encode_header(ordered)
    assert len(header) % ALIGNMENT == 0
    entries = parse_header(header[8:], len(header) + sum(map(nbytes, plan)))
    assert entries.keys() == {name for name, _, _ in plan}
    for name, dtype, shape in plan:
        size = nbytes((name, dtype, shape))
        assert entries[name].offset % ITEMSIZE[dtype] == 0
        if size and size % ALIGNMENT == 0:
            assert entries[name].offset % ALIGNMENT == 0


def test_tensors_that_align_stay_in_plan_order() -> None:
    plan: list[Planned] = [("z", "F32", (16,)), ("odd", "I8", (3,)), ("a", "F32", (32,)), ("half", "F32", (8,))]
    assert [name for name, _, _ in file_order(plan, nbytes)] == ["z", "a", "half", "odd"]


def test_two_tensors_of_one_name() -> None:
    with pytest.raises(ValueError, match="two tensors of one name"):
        encode_header([PLAN[0], PLAN[0]])


def test_an_error_leaves_nothing_and_spares_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")

    def write_half() -> None:
        with RankFileWriter(tmp_path / "f", PLAN) as file:
            file.append(DATA[:50])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_less_data_than_planned_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="planned"), RankFileWriter(tmp_path / "f", PLAN) as file:
        file.append(DATA[:-1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_at_any_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    def write() -> None:
        with RankFileWriter(tmp_path / "f", PLAN) as file:
            file.append(DATA)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DiskFullError, match=r"needs [\d,]+ bytes, [\d,]+ are free") as caught:
        write()
    assert caught.value.exit_code == 5
    assert "--output" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk with or without direct writes; sizes of the direct writes that it accepted."""
    taken: list[int] = []
    open_, pwrite, direct = os.open, os.pwrite, set[int]()  # descriptors

    def opened(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if not flags & os.O_DIRECT:
            return open_(path, flags, mode)
        if request.param == "refused at opening":
            raise OSError(errno.EINVAL, "invalid argument")
        file = open_(path, flags & ~os.O_DIRECT, mode)
        direct.add(file)
        return file

    def written(file: int, data: memoryview, offset: int) -> int:
        if file in direct:
            address = np.frombuffer(data, np.uint8).__array_interface__["data"][0] if data.nbytes else 0
            if request.param == "refused at writing" or (data.nbytes | offset | address) % PAGE:
                raise OSError(errno.EINVAL, "invalid argument")
            taken.append(data.nbytes)
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "pwrite", written)
    return taken


@given(sizes=st.lists(st.integers(0, 3 * PAGE), max_size=12), data=st.data())
def test_pieces_through_a_ring(sizes: list[int], data: st.DataObject) -> None:
    content = np.random.default_rng(0).bytes(sum(sizes))
    with TemporaryDirectory() as name:
        path, at = Path(name) / "f", 0
        with RankFileWriter(path, [("w", "U8", (len(content),))]) as file, Ring(3 * PAGE) as ring:
            for size in sizes:
                piece = content[at : at + size]
                at += size
                if data.draw(st.booleans(), label="appended"):
                    ring.drain()
                    file.append(piece)
                    continue
                buffer = ring.next()
                file.room(buffer, size)[:] = bytearray(piece)
                ring.submit(file.put(buffer, size))
            ring.drain()
        found = path.read_bytes()
    assert found == file.header + content
    assert file.descriptor.digest == "sha256:" + hashlib.sha256(found).hexdigest()


@pytest.mark.parametrize(
    ("disk", "direct"),
    [("takes them", 5 * PAGE), ("refused at opening", 0), ("refused at writing", 0)],
    indirect=["disk"],
)
def test_direct_writes_where_the_disk_takes_them(tmp_path: Path, disk: list[int], direct: int) -> None:
    content = np.random.default_rng(0).bytes(5 * PAGE + 7)
    with RankFileWriter(tmp_path / "f", [("w", "U8", (len(content),))]) as file, Ring(len(content)) as ring:
        buffer = ring.next()
        file.room(buffer, len(content))[:] = bytearray(content)
        ring.submit(file.put(buffer, len(content)))
        ring.drain()
    assert (tmp_path / "f").read_bytes() == file.header + content
    assert sum(disk) == direct


def test_a_write_that_fails_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        with RankFileWriter(tmp_path / "f", [("w", "U8", (PAGE * 8,))]) as file, Ring(PAGE) as ring:
            monkeypatch.setattr(os, "pwrite", full)
            for _ in range(8):
                buffer = ring.next()
                file.room(buffer, PAGE)[:] = 1
                ring.submit(file.put(buffer, PAGE))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with pytest.raises(DiskFullError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_disk_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="input/output"), RankFileWriter(tmp_path / "f", PLAN) as file:
        file.append(DATA)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    with RankFileWriter(tmp_path / "f", PLAN) as file:
        with (
            pytest.raises(ResourceError, match="being written by another process"),
            RankFileWriter(tmp_path / "f", PLAN),
        ):
            pass
        file.append(DATA)
    assert load_file(tmp_path / "f")["b"].tobytes() == b"xyz"


def test_the_file_of_a_killed_writer_is_taken_over(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from compiler.storage.files.writer import RankFileWriter\n"
        "with RankFileWriter(Path(sys.argv[1]), [('w', 'U8', (1 << 20,))]) as file:\n"
        "    file.append(b'1' * 1000); print('writing', flush=True); time.sleep(60)\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "f")], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "writing\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == ["f.part"]
    with RankFileWriter(tmp_path / "f", PLAN) as file:
        file.append(DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert load_file(tmp_path / "f")["b"].tobytes() == b"xyz"


def test_space_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_space(out, [("a", 1000)])
    with pytest.raises(DiskFullError, match="needs 2,000,000,000,000,000 bytes"):
        check_space(out, [("a", 10**15), ("b", 10**15)])
    assert list(out.iterdir()) == []


def test_the_header_of_a_plan_is_always_these_bytes() -> None:
    """Digests of published artifacts stand on them."""
    entries = (
        b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[4,8],"data_offsets":[0,128]},'
        b'"b":{"dtype":"I8","shape":[3],"data_offsets":[128,131]},'
        b'"empty":{"dtype":"F16","shape":[0,2],"data_offsets":[131,131]}}'
    )
    padded = entries.ljust(-(-(8 + len(entries)) // ALIGNMENT) * ALIGNMENT - 8)
    assert encode_header(PLAN) == len(padded).to_bytes(8, "little") + padded
