"""Crash files: the traceback of a bug, and everything that a maintainer needs beside it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.storage.cache.stages import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.errors import InternalError


def write_crash_file(error: InternalError) -> Path | None:
    """Write the crash file of an error: facts and traceback. Return its path (see write_log)."""
    return write_log(_text(error), "crash")


def write_log(text: str, kind: str) -> Path | None:
    """Write `text` as `KIND-TIME-PROCESS.txt` into `crashes` of the cache, else of the folder for temporary files.

    Return its path; None where neither folder can be written.
    """
    data = text.encode(errors="backslashreplace")
    for folder in _folders():
        path = folder / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except (OSError, ValueError):
            continue
        return path
    return None


def _folders() -> Iterator[Path]:
    with suppress(RuntimeError):  # there is no home folder
        yield cache_folder() / "crashes"
    yield Path(tempfile.gettempdir()) / "lmi-compile-crashes"


def _text(error: InternalError) -> str:
    from compiler import __version__

    facts = {
        "lmi-compile": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        **_versions(),
        "folder": str(Path.cwd()),
        **error.facts,
    }
    trace = "".join(traceback.format_exception(error.__cause__ or error))
    return "".join(f"{name}: {value}\n" for name, value in facts.items()) + f"\n{trace}"


def _versions() -> dict[str, str]:
    """Versions of the packages that take part, as far as they are imported."""
    names = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic", "typer")
    return {name: str(getattr(sys.modules[name], "__version__", "?")) for name in names if name in sys.modules}
