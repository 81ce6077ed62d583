"""Faster `import torch` for a process that only runs an artifact: without the quarter that is for tracing.

`torch._meta_registrations` registers the shapes of operators' results: 250 ms of import for torch.export,
torch.compile and fake tensors, none of which a compiled package uses. The module is private to torch, so it is skipped
only in releases where that was tested. Not for a host process of others, whose `torch.compile` would miss the
registrations: `runtime.generate.load` does not do this by itself.

The garbage collector takes another tenth of a second, for a million new objects, all of which stay.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from compiler.machine import installed

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRACING_ONLY = "torch._meta_registrations"
TESTED = ("2.13",)
"""Releases of torch whose import was tested without that module; another release is imported plainly."""


def import_torch() -> None:
    """Import torch without its tracing registrations; no effect where torch is imported already."""
    if "torch" in sys.modules:
        return
    skip = (installed("torch") or "").startswith(tuple(f"{release}." for release in TESTED))
    if skip:
        sys.modules[_TRACING_ONLY] = ModuleType(_TRACING_ONLY)
    try:
        with _no_garbage_collection():
            import torch
    finally:
        if skip:
            del sys.modules[_TRACING_ONLY]  # a later import gets the real module
    if skip:
        vars(torch).pop("_meta_registrations", None)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Suspend garbage collection, and exclude the objects that exist at the end from later collections."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
