"""A rank other than 0: loads its share of an artifact and executes what rank 0 commands. Started by `ranks.Ranks`.

Ends by itself when rank 0 is gone: the end of its input while it waits, a broken connection in a collective, and,
wherever else it may be, a thread that waits for the end of the parent process.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import select
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.runtime.commands import Allocate, Connect, Move, Step, decode
from compiler.runtime.group import LOOPBACK, CollectiveError, Processes
from compiler.runtime.progress import IDLE, LOADED, Board
from compiler.runtime.ranks import PEER_LOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from compiler.runtime.engine import Share

SHARE = "compiler.runtime.load:share"
"""What loads a follower's part of a compiled artifact."""


@dataclass(frozen=True)
class Role:
    """Which part of an artifact a process has: the arguments of its command line.

    `share`: `module:function`, called with a Role, returns the rank's `Share`.
    """

    artifact: Path
    share: str
    rank: int
    tp: int
    device: str
    timeout: float


def load_share(role: Role) -> Share:
    """What the function that `role.share` names makes of the role."""
    module, _, function = role.share.partition(":")
    make: Callable[[Role], Share] = getattr(importlib.import_module(module), function)
    return make(role)


def main(argv: list[str]) -> int:
    artifact, share, rank, tp, device, timeout, board_fd, parent = argv
    role = Role(Path(artifact), share, int(rank), int(tp), device, float(timeout))
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # rank 0 asks a rank that hangs where it is
    _die_with(int(parent))
    board = Board(int(board_fd), role.tp)
    return _serve(role, board)


def _serve(role: Role, board: Board) -> int:
    share = load_share(role)
    board.enter(role.rank, LOADED)
    os.write(sys.stdout.fileno(), b"1")
    gc.freeze()  # what is loaded stays: the collector need not look at it again
    while True:
        board.enter(role.rank, IDLE)
        command = decode(sys.stdin.buffer.read)
        try:
            match command:
                case None:
                    return 0
                case Connect(port):
                    share.group = _join(role, port, board)
                case Step():
                    board.begin_step(role.rank)
                    share.step(command)
                case Allocate(batch, length):
                    share.allocate(batch, length)
                case Move(source, target):
                    share.move(source, target)
        except CollectiveError:
            traceback.print_exc()
            return PEER_LOST


def _join(role: Role, port: int, board: Board) -> Processes:
    from torch._C._distributed_c10d import TCPStore

    timeout = timedelta(seconds=role.timeout)
    try:
        store = TCPStore(LOOPBACK, port, role.tp, is_master=False, timeout=timeout)
        return Processes(
            # Rank 0 is to be the first to lose patience: it knows whom to name.
            store, role.rank, role.tp, device=role.device, timeout=2 * role.timeout, board=board, check=lambda: None
        )  # fmt: skip
    except RuntimeError as error:
        raise CollectiveError(str(error)) from error


def _die_with(parent: int) -> None:
    """Ends this process when the process `parent` has ended."""
    watched = os.pidfd_open(parent)
    if os.getppid() != parent:  # it ended before it was watched
        os._exit(PEER_LOST)

    def watch() -> None:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.poll()
        os._exit(PEER_LOST)

    threading.Thread(target=watch, name="die-with-rank-0", daemon=True).start()


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except BaseException:  # noqa: BLE001 - whatever it is, rank 0 reads it from standard error
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    # Without the interpreter's farewell: gloo's threads and compiled packages need not be taken apart in order.
    os._exit(code)
