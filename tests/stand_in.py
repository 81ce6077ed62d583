"""A toolchain that compiles nothing: its packages are bytes that follow from their spec. For tests of
everything else.

Artifacts made by it say so in their manifest (`stand_in`), and nothing about logits is claimed of them.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Device
    from compiler.targets.values import How, Sources


class StandIn:
    """`compiled` has the name of every package it was asked for, `delay` is what one takes (seconds)."""

    stand_in = True

    def __init__(self, version: str = "1", delay: float = 0.0) -> None:
        self.version, self.delay = version, delay
        self.compiled: list[str] = []

    def versions(self, device: str) -> dict[str, str]:
        return {"stand-in": self.version, "device": device}

    def compile(
        self,
        specs: Sequence[Any],
        out: Path,
        how: How,
        *,
        device: Device,
        sources: Sources,
        progress: Callable[[int, int], None],
    ) -> None:
        assert sources.checkpoint.is_dir()
        files = []
        for spec in specs:
            text = json.dumps([spec.to_json(), device.kind, how.march, self.version], sort_keys=True)
            file = out / f"{spec.name}.pt2"
            file.write_bytes(hashlib.shake_256(text.encode()).digest(2_000_000))
            time.sleep(self.delay)
            self.compiled.append(spec.name)
            files.append(file)
            progress(len(files), len(specs))
