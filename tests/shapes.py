"""Names and shapes of linear layers and norms in published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]


def linear(stem: str, rows: int, columns: int, *, bias: bool = False) -> Shapes:
    return {f"{stem}.weight": (rows, columns)} | ({f"{stem}.bias": (rows,)} if bias else {})


def norm(stem: str, width: int, *, bias: bool = False) -> Shapes:
    found: Shapes = {f"{stem}.weight": (width,)}
    return found | ({f"{stem}.bias": (width,)} if bias else {})
