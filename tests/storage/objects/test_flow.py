from __future__ import annotations

import hashlib
import random
import threading
import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.storage.objects.flow import PART, Flow, in_turn, part_size_of, pieces


@given(st.integers(0, 1 << 44), st.integers(1, 1 << 40))
def test_pieces_cover_a_file_once(size: int, part_size: int) -> None:
    part_size = max(part_size, size // 1000 + 1)  # keeps the list short
    found = pieces(size, part_size)
    assert sum(length for _, length in found) == size
    assert all(start == i * part_size for i, (start, _) in enumerate(found))
    assert all(length == part_size for _, length in found[:-1])


@given(st.integers(0, 5 << 40))
def test_parts_are_as_many_and_as_large_as_s3_takes(size: int) -> None:
    part_size = part_size_of(size)
    assert PART <= part_size <= 5 << 30
    assert -(-size // part_size) <= 10_000


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_a_digest_is_of_the_parts_in_their_order(threads: int) -> None:
    data = [random.randbytes(1000) for _ in range(40)]
    moved: list[int] = []
    flow = Flow(moved.append)
    hasher = flow.hasher()

    def part(number: int) -> None:
        time.sleep(random.uniform(0, 0.002))
        hasher.update(number, data[number])
        flow.passed(1000)

    flow.run((partial(part, number) for number in range(40)), threads)
    assert hasher.digest == "sha256:" + hashlib.sha256(b"".join(data)).hexdigest()
    assert sum(moved) == 40_000


def test_an_error_ends_all_and_is_raised() -> None:
    flow, ran = Flow(), list[int]()
    hasher, started = flow.hasher(), threading.Event()

    def part(number: int) -> None:
        ran.append(number)
        if number == 0:  # the parts after it wait for their turn, which never comes
            started.wait(10)
            raise OSError("broken")
        started.set()
        hasher.update(number, b"")

    with pytest.raises(OSError, match="broken"):
        flow.run((partial(part, number) for number in range(1000)), 4)
    assert len(ran) < 1000


@given(st.lists(st.integers(0, 5), max_size=9), st.integers(1, 4))
def test_a_few_files_are_under_way_at_once(lengths: list[int], width: int) -> None:
    done: list[tuple[int, int]] = []
    files = [iter([partial(done.append, (file, n)) for n in range(length)]) for file, length in enumerate(lengths)]
    left = list(lengths)
    for job in in_turn(files, width):
        job()
        left[done[-1][0]] -= 1
        assert sum(0 < count < lengths[file] for file, count in enumerate(left)) <= width
    assert sorted(done) == [(file, n) for file, length in enumerate(lengths) for n in range(length)]
    for file in range(len(lengths)):
        assert [n for one, n in done if one == file] == sorted(n for one, n in done if one == file)
