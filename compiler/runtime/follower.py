"""Process of a rank other than 0: loads its share of an artifact and executes rank 0's commands.

Started by `ranks.Ranks`. Ends by itself when rank 0 is gone: at the end of its input while it waits, at a broken
connection in a collective, and anywhere else through a thread that waits for the end of the parent process.
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

from compiler.runtime.commands import Allocate, Connect, StepCommand, Swap, decode
from compiler.runtime.group import LOOPBACK, CollectiveError, Processes
from compiler.runtime.progress import IDLE, LOADED, Board
from compiler.runtime.ranks import PEER_LOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from compiler.runtime.engine import Share

SHARE = "compiler.runtime.load:share"
"""Function that loads a follower's share of a compiled artifact (`Role.share`)."""


@dataclass(frozen=True)
class RankRole:
    """Share of an artifact that a process runs: the arguments of its command line.

    `share`: `module:function`, called with a Role, returns the rank's `Share`. `timeout`: seconds.
    """

    artifact: Path
    share: str
    rank: int
    tp: int
    device: str
    timeout: float


def load_share(role: RankRole) -> Share:
    """Share that the function named by `role.share` loads."""
    module, _, function = role.share.partition(":")
    make: Callable[[RankRole], Share] = getattr(importlib.import_module(module), function)
    return make(role)


def main(argv: list[str]) -> int:
    artifact, share, rank, tp, device, timeout, board_fd, parent = argv
    role = RankRole(Path(artifact), share, int(rank), int(tp), device, float(timeout))
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # rank 0 requests the stack of a rank that hangs
    _exit_with(int(parent))
    board = Board(int(board_fd), role.tp)
    return _serve(role, board)


def _serve(role: RankRole, board: Board) -> int:
    share = load_share(role)
    board.enter(role.rank, LOADED)
    os.write(sys.stdout.fileno(), b"1")
    gc.freeze()  # loaded objects live until the end: exclude them from collections
    while True:
        board.enter(role.rank, IDLE)
        command = decode(sys.stdin.buffer.read)
        try:
            match command:
                case None:
                    return 0
                case Connect(port):
                    share.group = _join(role, port, board)
                case StepCommand():
                    board.begin_step(role.rank)
                    share.step(command)
                case Allocate(batch, length):
                    share.allocate(batch, length)
                case Swap(source, target):
                    share.swap(source, target)
        except CollectiveError:
            traceback.print_exc()
            return PEER_LOST


def _join(role: RankRole, port: int, board: Board) -> Processes:
    from torch._C._distributed_c10d import TCPStore

    timeout = timedelta(seconds=role.timeout)
    try:
        store = TCPStore(LOOPBACK, port, role.tp, is_master=False, timeout=timeout)
        return Processes(
            # Rank 0 shall time out first: it can name the rank at fault.
            store, role.rank, role.tp, device=role.device, timeout=2 * role.timeout, board=board, check=lambda: None
        )  # fmt: skip
    except RuntimeError as error:
        raise CollectiveError(str(error)) from error


def _exit_with(parent: int) -> None:
    """End this process when the process `parent` has ended."""
    watched = os.pidfd_open(parent)
    if os.getppid() != parent:  # it ended before the watch began
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
    except BaseException:  # noqa: BLE001  # rank 0 reads any exception from standard error
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    # Skip the interpreter's shutdown: gloo's threads and compiled packages need no orderly teardown.
    os._exit(code)
