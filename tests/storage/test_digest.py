from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from compiler.storage.files import digest
from compiler.storage.files.digest import Descriptor, DigestMemo, canonical_json, describe, sha256_file


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really read, in order."""
    read: list[Path] = []

    def spy(path: Path) -> str:
        read.append(path)
        return sha256_file(path)

    monkeypatch.setattr(digest, "sha256_file", spy)
    return read


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "weights"
    file.write_bytes(b"w" * (1 << 20))
    return file


def test_canonical_json_has_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,2.5,null]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_describe(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f").write_bytes(b"abc")
    # The digest of "abc" that FIPS 180-2 gives as its example.
    expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert describe(tmp_path, "sub/f", "text/plain") == Descriptor("sub/f", "text/plain", expected, 3, "crc32:352441c2")


def test_the_second_question_reads_nothing(tmp_path: Path, weights: Path, hashed: list[Path]) -> None:
    first = DigestMemo(tmp_path / "cache" / "memo").sha256(weights)
    assert first == "sha256:" + hashlib.sha256(b"w" * (1 << 20)).hexdigest()
    assert DigestMemo(tmp_path / "cache" / "memo").sha256(weights) == first
    assert hashed == [weights]


def test_rehash_reads_again(tmp_path: Path, weights: Path, hashed: list[Path]) -> None:
    memo = DigestMemo(tmp_path / "memo")
    assert memo.sha256(weights) == memo.sha256(weights, rehash=True)
    assert hashed == [weights, weights]


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_changed_file_is_read_again(tmp_path: Path, weights: Path, change: str) -> None:
    memo = DigestMemo(tmp_path / "memo")
    before, stat = memo.sha256(weights), weights.stat()
    content = b"v" * (1 << 20) + b"v" * (change == "size")
    if change == "inode":
        other = tmp_path / "other"
        other.write_bytes(content)
        other.replace(weights)
    else:
        weights.write_bytes(content)
    # Whatever else would give the change away is put back.
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + (change == "time")))
    after = memo.sha256(weights)
    assert after != before
    assert after == "sha256:" + hashlib.sha256(content).hexdigest()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(path: Path) -> str:
        found = sha256_file(path)
        path.write_bytes(b"v" * (1 << 20))
        os.utime(path, ns=(0, 0))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(digest, "sha256_file", overtaken)
        DigestMemo(tmp_path / "memo").sha256(weights)
    assert DigestMemo(tmp_path / "memo").sha256(weights) == sha256_file(weights)


def test_small_files_are_never_taken_from_the_memo(tmp_path: Path) -> None:
    memo, config = DigestMemo(tmp_path / "memo"), tmp_path / "config.json"
    config.write_bytes(b"1")
    stat, before = config.stat(), memo.sha256(config)
    config.write_bytes(b"2")
    os.utime(config, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert memo.sha256(config) != before


@pytest.mark.parametrize("rubbish", [b'["/cut/short", 12', b"\xff\xfe", b"{}", b"[1,2]", b'["p","x",1,2,"d"]'])
def test_damaged_lines_are_passed_over(tmp_path: Path, weights: Path, hashed: list[Path], rubbish: bytes) -> None:
    file = tmp_path / "memo"
    DigestMemo(file).sha256(weights)
    file.write_bytes(rubbish + b"\n" + file.read_bytes() + rubbish)
    DigestMemo(file).sha256(weights)
    assert hashed == [weights]


def test_two_memos_share_a_file(tmp_path: Path, hashed: list[Path]) -> None:
    files = [tmp_path / str(i) for i in range(6)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]) * (1 << 20))
    memos = [DigestMemo(tmp_path / "memo") for _ in range(2)]
    for i, file in enumerate(files):
        memos[i % 2].sha256(file)
    hashed.clear()
    third = DigestMemo(tmp_path / "memo")
    assert len({third.sha256(file) for file in files}) == len(files)
    assert hashed == []


def test_the_memo_does_not_grow_without_end(tmp_path: Path, weights: Path) -> None:
    file = tmp_path / "memo"
    DigestMemo(file).sha256(weights)
    line = file.read_bytes()
    file.write_bytes(line * 1000)
    DigestMemo(file).sha256(weights)
    assert file.read_bytes() == line


def test_a_digest_computed_while_writing_is_believed(tmp_path: Path, weights: Path, hashed: list[Path]) -> None:
    known = sha256_file(weights)
    DigestMemo(tmp_path / "memo").remember(weights, known)
    assert DigestMemo(tmp_path / "memo").sha256(weights) == known
    assert hashed == []
