"""Entries of a checkpoint's headers, as all readers of checkpoints give them."""

from __future__ import annotations

from typing import Protocol


class Header(Protocol):
    """Entry of one tensor in a checkpoint's header."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
