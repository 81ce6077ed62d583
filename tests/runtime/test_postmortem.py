from __future__ import annotations

import os
import signal
import subprocess
import time
import traceback

import pytest

from compiler.runtime.postmortem import ending, process_state, quote, suspicion
from compiler.runtime.progress import COMPUTING, IN_COLLECTIVE, Place, new_board


@pytest.mark.parametrize(
    ("code", "out_of_memory", "how", "remedy"),
    [
        (1, False, "ended with exit code 1", "Its log"),
        (-9, True, "was ended by SIGKILL", "lack of memory meanwhile"),
        (-9, False, "was ended by SIGKILL", "probably the out-of-memory killer"),
        (-4, False, "was ended by SIGILL", "`--march x86-64-v3`"),
        (-11, False, "was ended by SIGSEGV", "Its log"),
        (-64, False, "was ended by SIGRTMAX", "Its log"),
        (-50, False, "was ended by signal 50", "Its log"),
    ],
)
def test_an_ending_in_words(code: int, *, out_of_memory: bool, how: str, remedy: str) -> None:
    said, hint = ending(code, out_of_memory)
    assert said == how
    assert remedy in hint


def test_the_rank_that_others_wait_for_is_suspected() -> None:
    waiting = (Place(5, 40, IN_COLLECTIVE), "S")
    for stalled in (
        (Place(5, 40, IN_COLLECTIVE), "T"),  # stopped in the same collective
        (Place(5, 39, COMPUTING), "R"),  # has not come to it
        (Place(4, 39, IN_COLLECTIVE), "S"),  # is a step behind
    ):
        assert suspicion(*stalled) < suspicion(*waiting)


def test_the_state_of_a_process_is_read() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            os.kill(sleeper.pid, signal.SIGSTOP)
            deadline = time.monotonic() + 10
            while process_state(sleeper.pid) != "T":
                assert time.monotonic() < deadline
        finally:
            sleeper.kill()
    assert process_state(sleeper.pid) == "?"


def test_a_log_is_quoted_by_its_last_lines() -> None:
    assert quote("") == ""
    quoted = quote("\n".join(f"line {n}" for n in range(100)))
    assert quoted.startswith("\n  | line 88\n")
    assert quoted.endswith("\n  | line 99")


def test_frames_of_tracebacks_are_not_quoted() -> None:
    log = ""
    try:
        dict[str, int]()["missing"]
    except KeyError:
        log = f"loading\n{traceback.format_exc()}done\n"
    assert "Traceback" in log
    assert quote(log) == "\n  | loading\n  | KeyError: 'missing'\n  | done"
    fatal = (
        'Fatal Python error: Segmentation fault\n\nThread 0x00 (most recent call first):\n  File "a.py", line 3 in f\n'
    )
    assert quote(fatal) == "\n  | Fatal Python error: Segmentation fault"


def test_a_board_shows_every_rank_its_own_place() -> None:
    fd, board = new_board(3)
    try:
        board.begin_step(2)
        board.begin_collective(2)
        board.begin_step(1)
        assert board.at(0) == Place(0, 0, 0)
        assert board.at(1) == Place(1, 0, COMPUTING)
        assert board.at(2) == Place(1, 1, IN_COLLECTIVE)
        assert str(board.at(2)) == "step 1, collective 1, in a collective"
    finally:
        board.close()
        os.close(fd)
