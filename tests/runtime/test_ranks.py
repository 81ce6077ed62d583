"""Processes: what a rank that dies, raises or hangs does to a run, and what is left behind. Segments run eagerly."""

from __future__ import annotations

import gc
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compiler.errors import RankError
from compiler.runtime.generate import Model
from compiler.runtime.params import GenerationParams
from compiler.runtime.ranks import threads_per_rank
from tests.runtime.eager import LIMITS, engine
from tests.tiny import VOCAB

PROMPT = list(b"a prompt")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def faulty(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """`faulty("RANK STEP HOW")`: a checkpoint whose ranks fail so."""

    def checkpoint(fault: str) -> Path:
        folder = tmp_path / "checkpoint"
        shutil.copytree(tiny_checkpoint("llama"), folder)
        (folder / "fault").write_text(fault)
        return folder

    return checkpoint


@pytest.fixture
def descendants() -> Iterator[Callable[[], set[int]]]:
    """The followers that this process has started and that still exist; none may be left after the test."""

    def alive() -> set[int]:
        return {
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdecimal() and _is_follower_of(entry, os.getpid())
        }

    yield alive
    assert alive() == set()


def _is_follower_of(entry: Path, parent: int) -> bool:
    try:
        words = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"compiler.runtime.follower" in words and words[-2:-1] == [str(parent).encode()]


def _generate(checkpoint: Path, tp: int, timeout: float = 60.0) -> None:
    with Model(engine(checkpoint, tp, timeout), LIMITS, VOCAB, None, frozenset()) as model:
        model.generate([PROMPT], GenerationParams(max_new_tokens=8))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("1 1 raise", ("rank 1 of 2 ended with exit code 1", "ValueError: a made-up fault", "step 1")),
        ("1 3 kill", ("rank 1 of 2 was ended by SIGKILL", "step 3")),
        ("1 0 exit-while-loading", ("rank 1 of 2 ended with exit code 1", "MemoryError: no room for the weights")),
    ],
)
def test_a_rank_that_ends_is_named(
    faulty: Callable[[str], Path], descendants: Callable[[], set[int]], fault: str, said: tuple[str, ...]
) -> None:
    with pytest.raises(RankError) as caught:
        _generate(faulty(fault), tp=2)
    for part in said:
        assert part in caught.value.message
    assert "Traceback" not in caught.value.message
    assert ("Traceback" in caught.value.log) is ("exit code" in said[0])
    assert caught.value.exit_code == 9


def test_the_rank_that_died_is_named_and_not_those_that_lost_it(
    faulty: Callable[[str], Path], descendants: Callable[[], set[int]]
) -> None:
    with pytest.raises(RankError, match="rank 2 of 4 was ended by SIGKILL"):
        _generate(faulty("2 2 kill"), tp=4)


def test_a_rank_that_dies_while_the_group_is_made_is_noticed_before_the_time_out(
    faulty: Callable[[str], Path], descendants: Callable[[], set[int]]
) -> None:
    begun = time.monotonic()
    with pytest.raises(RankError, match="rank 1 of 2 ended with exit code 3"):
        _generate(faulty("1 0 exit-while-joining"), tp=2, timeout=120.0)
    assert time.monotonic() - begun < 120.0


def test_a_rank_that_hangs_is_named_after_the_time_out(
    faulty: Callable[[str], Path], descendants: Callable[[], set[int]]
) -> None:
    with pytest.raises(RankError, match=r"rank 2 of 4 hangs: step 2, .*process state T"):
        _generate(faulty("2 2 stop"), tp=4, timeout=5.0)


def test_a_rank_that_died_between_two_calls_is_named_by_the_next(
    tiny_checkpoint: Callable[[str], Path], descendants: Callable[[], set[int]]
) -> None:
    with Model(engine(tiny_checkpoint("llama"), 2), LIMITS, VOCAB, None, frozenset()) as model:
        model.generate([PROMPT], GenerationParams(max_new_tokens=2))
        (follower,) = descendants()
        os.kill(follower, signal.SIGTERM)
        while Path(f"/proc/{follower}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        with pytest.raises(RankError, match="rank 1 of 2 was ended by SIGTERM"):
            model.generate([PROMPT])
        with pytest.raises(RankError, match="this model is closed: rank 1 of 2 was ended by SIGTERM"):
            model.generate([PROMPT])


def test_closing_ends_the_ranks_and_leaves_nothing_open(
    tiny_checkpoint: Callable[[str], Path], descendants: Callable[[], set[int]]
) -> None:
    _generate(tiny_checkpoint("llama"), tp=2)  # what torch opens once and keeps
    gc.collect()  # of the tests before this one
    before = Counter(_open_files())
    _generate(tiny_checkpoint("llama"), tp=2)
    assert Counter(_open_files()) <= before


def _open_files() -> list[str]:
    names = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(fd.readlink()))
        except OSError:  # the descriptor that lists this folder
            continue
    return sorted(name.partition(":[")[0] for name in names)


@pytest.mark.parametrize(
    ("when", "how"),
    [("waiting", signal.SIGKILL), ("working", signal.SIGKILL), ("working", signal.SIGINT), ("waiting", signal.SIGTERM)],
)
def test_the_ranks_end_with_the_process_that_started_them(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, when: str, how: signal.Signals
) -> None:
    with _endless(tiny_checkpoint("llama"), when, tmp_path) as parent:
        followers = _printed(parent)
        assert len(followers) == 1
        parent.send_signal(how)
        try:
            parent.wait(60)
        finally:
            parent.kill()
    assert parent.returncode != 0
    for pid in followers:
        _wait_until_gone(pid)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_forgets_to_close_ends_well(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with _endless(tiny_checkpoint("llama"), "forgotten", tmp_path) as parent:
        followers = _printed(parent)
    assert parent.returncode == 0
    for pid in followers:
        _wait_until_gone(pid)


def _endless(checkpoint: Path, when: str, temporary: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.runtime.endless", str(checkpoint), "2", when],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        preexec_fn=_heed_interrupts,
    )  # fmt: skip


def _heed_interrupts() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _printed(parent: subprocess.Popen[bytes]) -> list[int]:
    assert parent.stdout is not None
    return [int(word) for word in parent.stdout.readline().split()]


def _wait_until_gone(pid: int) -> None:
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([watched], [], [], 10)[0], f"process {pid} is still there"
    finally:
        os.close(watched)


def test_threads_are_divided_by_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    assert [threads_per_rank(tp) for tp in (1, 2, 5, 24)] == [12, 6, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_rank(2) == 3
