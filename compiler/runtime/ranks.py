"""Follower processes from rank 0's side: start, commands, watch, end.

    rank 0 (this process)                     rank r (python -m compiler.runtime.follower)
    Popen ----------------------------------> import torch, map weights, load packages
                 <------------- "loaded" ---- (standard output)
    Connect(port) --------------------------> join the group
    Step, Allocate, Move -------------------> execute            (collectives: gloo / nccl)
    end of input ---------------------------> exit

A follower that ends is detected in half a second, one that hangs after `timeout` seconds without progress; then all
followers are killed, and the error names the rank and quotes its last output. Standard error and the progress board are
anonymous files, so nothing is left behind, however this process ends.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from compiler.errors import RankError
from compiler.runtime.commands import Command, Connect, StepCommand, encode
from compiler.runtime.group import LOOPBACK, CollectiveError, Processes
from compiler.runtime.postmortem import ending, kills_for_memory, process_state, quote, suspicion
from compiler.runtime.progress import new_board

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._C._distributed_c10d import TCPStore

PEER_LOST = 75
"""Exit code of a follower that ends because another rank did."""
DEFAULT_TIMEOUT = 60.0
"""Seconds without an answer from a rank after which it counts as hanging."""
LOADING_TIMEOUT = 600.0
"""Seconds for a rank to load: its weights may be on a slow disk."""
_TAIL = 16_000  # bytes of standard error that an error keeps
_DEATH_DELAY = 2.0  # seconds for a death to become visible after a collective failed because of it
_CLOSE_TIMEOUT = 5.0  # seconds for followers to end by themselves


@dataclass
class _Follower:
    rank: int
    process: subprocess.Popen[bytes]
    stderr: int

    def tail(self) -> str:
        size = os.fstat(self.stderr).st_size
        return os.pread(self.stderr, _TAIL, max(size - _TAIL, 0)).decode(errors="replace").strip()


class Ranks:
    """Ranks 1 to tp - 1 of an artifact. `share`: dotted `module:function` that loads a rank's share (follower.py)."""

    def __init__(
        self, artifact: Path, tp: int, *, share: str, device: str = "cpu", timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        self._tp, self._device, self._timeout = tp, device, timeout
        self._followers: list[_Follower] = []
        self._group: Processes | None = None
        self._killed_before = kills_for_memory()
        self._board_fd, self._board = new_board(tp)
        _ALIVE.add(self)
        try:
            for rank in range(1, tp):
                self._followers.append(self._start(artifact, rank, share))
        except BaseException:
            self.kill()
            raise

    def connect(self) -> Processes:
        """Wait until all followers are loaded, then join them in a group, which this object closes.

        Raises:
            RankError: a follower ended, or showed no progress for the time-out.
        """
        from torch._C._distributed_c10d import TCPStore

        try:
            for follower in self._followers:
                self._wait_loaded(follower)
            store: TCPStore = TCPStore(
                LOOPBACK, 0, self._tp, is_master=True, timeout=timedelta(seconds=self._timeout), wait_for_workers=False
            )
            self.send(Connect(store.port))
            self._group = self._while_all_live(
                lambda: Processes(
                    store, 0, self._tp, device=self._device, timeout=self._timeout, board=self._board, check=self.check
                )
            )
        except (CollectiveError, RuntimeError) as error:
            raise self.explain(str(error)) from error
        return self._group

    def send(self, command: Command) -> None:
        """Send all followers a command. Raises RankError where one does not accept it."""
        if isinstance(command, StepCommand):
            self._board.begin_step(0)
        data = encode(command)
        for follower in self._followers:
            self._write(follower, data)

    def check(self) -> None:
        """Check that all followers run. Raises RankError where one has ended."""
        if any(follower.process.poll() is not None for follower in self._followers):
            raise self.explain("")

    def explain(self, symptom: str) -> RankError:
        """Error that names the rank at fault for a failed collective. Kills all followers."""
        deadline = time.monotonic() + _DEATH_DELAY
        ended = self._ended_by_itself()
        while ended is None and time.monotonic() < deadline:
            time.sleep(0.02)
            ended = self._ended_by_itself()
        try:
            return self._death(ended) if ended else self._hang(symptom)
        finally:
            self.kill()

    def close(self) -> None:
        """End the followers: close their input, and kill those that do not end in _CLOSE_TIMEOUT seconds."""
        for follower in self._followers:
            _close_quietly(follower)
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        for follower in self._followers:
            try:
                follower.process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                break
        self.kill()

    def kill(self) -> None:
        """Kill the followers (SIGKILL also ends a stopped process), and release their resources."""
        for follower in self._followers:
            follower.process.kill()
        for follower in self._followers:
            _close_quietly(follower)
            follower.process.wait()
            os.close(follower.stderr)
        self._followers = []
        if self._group is not None:
            self._group.close()
            self._group = None
        if self._board_fd >= 0:
            os.close(self._board_fd)
            self._board_fd = -1
            self._board.close()

    def _start(self, artifact: Path, rank: int, share: str) -> _Follower:
        stderr = os.memfd_create(f"lmi-compile-rank{rank}", os.MFD_CLOEXEC)
        argv = [
            sys.executable, "-P", "-X", "faulthandler", "-m", "compiler.runtime.follower", str(artifact), share,
            f"{rank}", f"{self._tp}", self._device, f"{self._timeout}", f"{self._board_fd}", f"{os.getpid()}",
        ]  # fmt: skip
        environment = {
            **os.environ,
            # The follower imports the same modules as this process, whatever its working directory.
            "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
            "OMP_NUM_THREADS": str(threads_per_rank(self._tp)),
        }
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment,
                pass_fds=(self._board_fd,), bufsize=0,
                process_group=0,  # Ctrl-C is for rank 0, which ends the others
            )  # fmt: skip
        except BaseException:
            os.close(stderr)
            raise
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        return _Follower(rank, process, stderr)

    def _wait_loaded(self, follower: _Follower) -> None:
        assert follower.process.stdout is not None
        out = follower.process.stdout.fileno()
        deadline = time.monotonic() + LOADING_TIMEOUT
        while not _readable(out, 0.2):
            self.check()
            if time.monotonic() > deadline:
                raise CollectiveError(f"rank {follower.rank} did not finish loading in {LOADING_TIMEOUT:g} s")
        if not os.read(out, 1):
            raise CollectiveError(f"rank {follower.rank} closed its output while loading")

    def _while_all_live(self, join: Callable[[], Processes]) -> Processes:
        """Result of `join`, which waits for every rank and cannot be interrupted: if one ends meanwhile, its thread is
        left to its own time-out.
        """
        joined: Future[Processes] = Future()

        def run() -> None:
            try:
                joined.set_result(join())
            except (CollectiveError, RuntimeError) as error:
                joined.set_exception(error)

        threading.Thread(target=run, name="join", daemon=True).start()
        while not wait([joined], 0.2).done:
            self.check()
        return joined.result()

    def _write(self, follower: _Follower, data: bytes) -> None:
        assert follower.process.stdin is not None
        pipe, view = follower.process.stdin.fileno(), memoryview(data)
        deadline = time.monotonic() + self._timeout
        while view:
            try:
                view = view[os.write(pipe, view) :]
            except BlockingIOError:
                _writable(pipe, 0.2)
                self.check()
                if time.monotonic() > deadline:
                    raise self.explain(f"rank {follower.rank} accepted no command in {self._timeout:g} s") from None
            except BrokenPipeError:
                raise self.explain(f"rank {follower.rank} closed its input") from None

    def _ended_by_itself(self) -> _Follower | None:
        ended = [f for f in self._followers if f.process.poll() not in (None, PEER_LOST)]
        return ended[0] if ended else None

    def _death(self, follower: _Follower) -> RankError:
        code = follower.process.returncode
        how, hint = ending(code, kills_for_memory() > self._killed_before)
        place = self._board.at(follower.rank)
        return RankError(
            f"rank {follower.rank} of {self._tp} {how} ({place}){quote(follower.tail())}",
            hint=hint,
            log=follower.tail(),
        )

    def _hang(self, symptom: str) -> RankError:
        """Error that names the least advanced rank, or one that the system does not run."""
        alive = [f for f in self._followers if f.process.poll() is None]
        if not alive:
            return RankError(f"all other ranks lost their connection: {symptom}", hint="Run the command again.")
        places = {f.rank: self._board.at(f.rank) for f in alive}
        states = {f.rank: process_state(f.process.pid) for f in alive}
        suspect = min(alive, key=lambda f: suspicion(places[f.rank], states[f.rank]))
        suspect.process.send_signal(signal.SIGUSR1)  # its faulthandler writes its stack
        time.sleep(0.2)
        mine = self._board.at(0)
        return RankError(
            f"rank {suspect.rank} of {self._tp} hangs: {places[suspect.rank]}, process state "
            f"{states[suspect.rank]}; rank 0 is at {mine}; {symptom}{quote(suspect.tail())}",
            hint="State T is a stopped process. A loaded machine may need a longer time-out.",
            log=suspect.tail(),
        )


_ALIVE: WeakSet[Ranks] = WeakSet()


@atexit.register
def _kill_all() -> None:
    """Kill all followers at exit: a group that is alive during the interpreter's shutdown can abort the process."""
    for ranks in list(_ALIVE):
        ranks.kill()


def threads_per_rank(tp: int) -> int:
    """Number of compute threads of each rank: OMP_NUM_THREADS if set, else the cores of this process / tp."""
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return int(wish) if wish.isdecimal() and int(wish) > 0 else max(len(os.sched_getaffinity(0)) // tp, 1)


def _close_quietly(follower: _Follower) -> None:
    for stream in (follower.process.stdin, follower.process.stdout):
        if stream is not None:
            stream.close()


def _readable(fd: int, seconds: float) -> bool:
    return _ready(fd, select.POLLIN, seconds)


def _writable(fd: int, seconds: float) -> bool:
    return _ready(fd, select.POLLOUT, seconds)


def _ready(fd: int, event: int, seconds: float) -> bool:
    poll = select.poll()  # unlike select.select it takes descriptors above 1023
    poll.register(fd, event)
    return bool(poll.poll(seconds * 1000))
