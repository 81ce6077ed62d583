"""Weights of one rank: its file, mapped. Nothing is copied, and pages are read on use or by `read_ahead`.

Weights(path) ── read_ahead() ──> a thread maps the pages that every step reads, while this one imports torch
      └───────── tensors() ─────> views of the mapped file
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from typing import TYPE_CHECKING

from compiler.errors import ArtifactError
from compiler.model.dtypes import TORCH
from compiler.storage.checkpoints.header import HeaderError, read_header

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14; `mmap` has no name for it, older kernels reject it
_STEP = 64 << 20  # bytes per call; small, so that the thread ends soon at the end of the process


class Weights:
    """Rank file, mapped into memory. Raises ArtifactError where it is missing or no safetensors file."""

    def __init__(self, path: Path) -> None:
        try:
            self._entries = read_header(path)
            with path.open("rb") as file:
                # Private and writable, because torch requires writable memory. Nothing writes, so no page is copied.
                self._map = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, HeaderError) as error:
            raise ArtifactError(
                f"`{path}` is no file of a rank's weights: {error}", hint="pull or build the artifact again"
            ) from error

    def read_ahead(self) -> threading.Thread | None:
        """Start a daemon thread that reads the file and maps its pages, but for those of tables of rows.

        It saves the first token half a second of page faults for every 4 GB. None where the file exceeds half of the
        memory: unused pages could evict used ones.
        """
        if 2 * len(self._map) > os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE:
            return None
        thread = threading.Thread(target=_populate, args=(self._map, self._spans()), name="read-ahead", daemon=True)
        thread.start()
        return thread

    def _spans(self) -> list[tuple[int, int]]:
        """Begin and end of the bytes between tables of rows, of which a step reads one for every token."""
        tables = ["position.weight", *(["embed.weight"] if "head.weight" in self._entries else [])]
        left_out = sorted((e.offset, e.offset + e.nbytes) for name in tables if (e := self._entries.get(name)))
        edges = [0, *(edge for table in left_out for edge in table), len(self._map)]
        return list(zip(edges[::2], edges[1::2], strict=True))

    def tensors(self, device: str) -> dict[str, Tensor]:
        """Tensors by name: on the CPU views of the file, which keep it mapped; on other devices copies."""
        import torch

        found = {}
        for name, entry in self._entries.items():
            dtype: torch.dtype = getattr(torch, TORCH[entry.dtype])
            flat = (
                torch.frombuffer(self._map, dtype=dtype, count=entry.nbytes // dtype.itemsize, offset=entry.offset)
                if entry.nbytes
                else torch.empty(0, dtype=dtype)
            )
            found[name] = flat.view(entry.shape).to(device)
        return found


def _populate(memory: mmap.mmap, spans: Sequence[tuple[int, int]]) -> None:
    """Advise the kernel to map the pages of spans; errors have no effect. ctypes releases the interpreter lock
    meanwhile.
    """
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    view = (ctypes.c_char * len(memory)).from_buffer(memory)  # keeps it mapped
    address = ctypes.addressof(view)
    for first, end in spans:
        for begin in range(first - first % mmap.PAGESIZE, end, _STEP):
            if advise(address + begin, min(_STEP, end - begin), _POPULATE_READ):
                return
