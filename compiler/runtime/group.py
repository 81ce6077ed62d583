"""Collectives of tensor parallelism: sums of activations over ranks, and logits gathered on rank 0.

They are eager calls between compiled segments. A collective inside a package can deadlock: a package is called with
Python's interpreter lock held, and gloo's thread may need that lock to release an earlier tensor.

The group is made directly, not by `init_process_group`, which would occupy the default group of the caller's process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from compiler.runtime.progress import COMPUTING, Board

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import TCPStore

LOOPBACK = "127.0.0.1"
_SLICE = 0.5  # seconds between checks of the other ranks while waiting for a collective
_BACKSTOP = 30.0  # seconds from our time-out to the library's: ours can name the rank


class CollectiveError(Exception):
    """A collective did not finish: a rank is gone or hangs. `ranks.Ranks` finds out which."""


class Group(Protocol):
    """Collectives that a rank's share of the model calls."""

    rank: int
    size: int

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Replace `tensor` by its sum over ranks. All ranks call it with equal shape and dtype."""

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Tensors of all ranks, in their order, on rank 0; an empty list on other ranks."""

    def finish(self, tensor: torch.Tensor) -> torch.Tensor:
        """Wait for all queued work, and return `tensor` on the CPU."""


class Alone:
    """Group of a model that is not split."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Leave `tensor` unchanged: the sum over one rank."""

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [tensor]

    def finish(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.cpu()


class Processes:
    """Group of processes over loopback: gloo on CPU, nccl on CUDA.

    `check` is called while waiting, and raises when a rank is gone. `timeout`: seconds.
    """

    def __init__(
        self,
        store: TCPStore,
        rank: int,
        size: int,
        *,
        device: str,
        timeout: float,
        board: Board,
        check: Callable[[], None],
    ) -> None:
        self.rank, self.size = rank, size
        self._timeout, self._board, self._check = timeout, board, check
        self._queued = device == "cuda"
        self._store = store  # the group reads it as long as it lives
        self._group = _make(store, rank, size, device, timedelta(seconds=timeout + _BACKSTOP))

    def all_reduce(self, tensor: torch.Tensor) -> None:
        self._board.begin_collective(self.rank)
        try:
            self._wait(self._group.allreduce([tensor]))
        except RuntimeError as error:
            raise CollectiveError(str(error)) from error
        self._board.enter(self.rank, COMPUTING)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        import torch
        from torch.distributed import GatherOptions

        options = GatherOptions()
        options.rootRank = 0
        parts = [torch.empty_like(tensor) for _ in range(self.size)] if self.rank == 0 else []
        self._board.begin_collective(self.rank)
        try:
            self._wait(self._group.gather([parts] if parts else [], [tensor], options))
        except RuntimeError as error:
            raise CollectiveError(str(error)) from error
        self._board.enter(self.rank, COMPUTING)
        return parts

    def finish(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type == "cpu":
            return tensor
        import torch

        done = torch.cuda.Event()
        done.record()
        self._until(done.query, lambda: time.sleep(0.0002))
        return tensor.cpu()

    def close(self) -> None:
        """End the group at once; collectives in flight fail."""
        self._group.abort()
        self._group.shutdown()
        del self._group, self._store

    def _wait(self, work: torch.distributed.Work) -> None:
        if self._queued:
            work.wait()  # orders the stream behind the collective; the host waits in `finish`
            return

        def wait() -> None:
            try:
                work.wait(timedelta(seconds=_SLICE))
            except RuntimeError:
                # The slice is over, or the collective failed; a failed one is completed and raises for good.
                if work.is_completed():
                    raise

        wait()
        self._until(work.is_completed, wait)

    def _until(self, done: Callable[[], bool], wait: Callable[[], None]) -> None:
        deadline = time.monotonic() + self._timeout
        while not done():
            self._check()
            if time.monotonic() > deadline:
                raise CollectiveError(f"no answer from the other ranks in {self._timeout:g} s")
            wait()


def _make(store: TCPStore, rank: int, size: int, device: str, timeout: timedelta) -> Any:
    """New process group, of the classes of `torch.distributed` but without its global registry."""
    if device == "cuda":
        from torch.distributed import ProcessGroupNCCL

        nccl = ProcessGroupNCCL.Options()
        nccl._timeout = timeout
        return ProcessGroupNCCL(store, rank, size, nccl)
    from torch.distributed import ProcessGroupGloo

    # Only these options select the network device; the type stubs lack them.
    gloo: Any = vars(ProcessGroupGloo)["_Options"]()
    gloo._devices = [ProcessGroupGloo.create_device(hostname=LOOPBACK)]
    gloo._timeout = timeout
    gloo._threads = 2
    return ProcessGroupGloo(store, rank, size, gloo)
