"""`import torch` in a process that runs an artifact and does nothing else: a quarter of its time is for tracing.

`torch._meta_registrations` teaches torch the shapes of its operators' results: 250 ms of import for what only
torch.export, torch.compile and fake tensors use. A compiled package calls none of it. Not for processes of others:
in there `torch.compile` would miss its registrations, so `runtime.generate.load` does not do this by itself.

The garbage collector takes another tenth of a second: it goes over a million new objects, all of which stay.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRACING_ONLY = "torch._meta_registrations"


def import_torch() -> None:
    """Import torch without what only tracing needs; nothing where torch is imported already."""
    if "torch" in sys.modules:
        return
    sys.modules[_TRACING_ONLY] = ModuleType(_TRACING_ONLY)
    try:
        with _uncollected():
            import torch
    finally:
        # Whoever asks for it later gets the real one.
        del sys.modules[_TRACING_ONLY]
    vars(torch).pop("_meta_registrations", None)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection; what is there at the end is never looked at again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
