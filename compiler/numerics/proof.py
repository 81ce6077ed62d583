"""Length of a proof: the rows of tokens that judge, gate and `verify` compare, and a model whose limits are lowered.

A fault beyond a limit shows only in rows that are longer than it: a sliding window, the boundary of a scaling of rotary
positions (the context length of its training), a block of the cache. So

    straight    rows of different length through the model as it is: longer than blocks of the cache, and DECODED tokens
                longer than windows and boundaries, up to LONGEST tokens
    lowered     one row through the same weights with windows and boundaries at LOWERED positions, in the reference as
                in the rank files: 8192 positions would take minutes, and one position more of 4096 changes little
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.targets.runners import DECODED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compiler.model.config import ModelConfig

LENGTH, SECOND = 160, 40
"""Tokens of the first row, longer than the blocks of caches (64 positions in the runtime, 128 in its kernels), and of
the second.
"""
LONGEST = 288
"""Most tokens of the first row."""
PREFILLED = 8
"""Tokens before those of decode steps whose logits are compared, besides EARLY ones spread over the beginning."""
EARLY = 4
LOWERED, LOWERED_LENGTH = 16, 64
"""Positions of lowered windows and boundaries, and tokens of the row that proves them."""


@dataclass(frozen=True)
class Proof:
    """Rows of a proof. `rows`: token counts of the straight rows. `window`, `boundary`: the smallest of the model, in
    positions (chunks count as windows); None: it has none. `lowered`: the model with lowered limits, None where they
    are low already.
    """

    rows: tuple[int, ...]
    window: int | None = None
    boundary: int | None = None
    lowered: ModelConfig | None = None
    lowered_rows: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(self.rows) + sum(self.lowered_rows)

    def to_json(self) -> dict[str, Any]:
        """Facts for the plan and the manifest; `lowered` has the limits in positions."""
        lowered = self.lowered
        window, boundary = (min(_windows(lowered), default=None), _boundary(lowered)) if lowered else (None, None)
        return {
            "rows": list(self.rows),
            "window": self.window,
            "boundary": self.boundary,
            "lowered_rows": list(self.lowered_rows),
            "lowered_window": window if window != self.window else None,
            "lowered_boundary": boundary if boundary != self.boundary else None,
        }

    @property
    def text(self) -> str:
        """`160 + 40 tokens, and 64 tokens with the window of 4096 at 16`."""
        straight = f"{' + '.join(map(str, self.rows))} tokens"
        return f"{straight}, and {self.lowered_text}" if self.lowered else straight

    @property
    def lowered_text(self) -> str:
        """`64 tokens with the window of 4096 at 16`."""
        facts = self.to_json()
        limits = [
            f"the {name} of {facts[name]} at {facts[f'lowered_{name}']}"
            for name in ("window", "boundary")
            if facts[f"lowered_{name}"] is not None
        ]
        return f"{sum(self.lowered_rows)} tokens with {' and '.join(limits)}"


def proof_of(config: ModelConfig, max_positions: int) -> Proof:
    """Proof of a model that serves rows of `max_positions` tokens."""
    most = max(max_positions - 1, 1)
    windows = [window for window in _windows(config) if window < max_positions]
    boundary = _boundary(config)
    limits = [*windows, *([] if boundary is None else [boundary])]
    reach = [limit + DECODED for limit in limits if limit + DECODED <= LONGEST]
    first = min(max([LENGTH, *reach]), most)
    second = min(SECOND, first // 4)
    lowered = _lowered(config, max_positions, most)
    return Proof(
        rows=(first, second) if second else (first,),
        window=min(windows, default=None),
        boundary=boundary,
        lowered=lowered,
        lowered_rows=(min(LOWERED_LENGTH, most),) if lowered else (),
    )


def compared(length: int) -> NDArray[np.int64]:
    """Positions of a row of `length` tokens whose logits are compared, ascending: all of decode steps, the last ones of
    prefill, and a few early ones.
    """
    decoded = min(DECODED, length)
    prefilled = min(PREFILLED, length - decoded)
    early = np.linspace(0, max(length - decoded - prefilled - 1, 0), EARLY).astype(np.int64)
    return np.unique(np.concatenate([early, np.arange(length - decoded - prefilled, length)]))


def _lowered(config: ModelConfig, max_positions: int, most: int) -> ModelConfig | None:
    """The model with its limits at LOWERED positions; None where no limit is far above."""
    to = min(LOWERED, max(most // 2, 1))

    def low(limit: int | None) -> int | None:
        """The limit of attention itself where it is low, or where no row is longer."""
        return limit if limit is None or limit <= 2 * to or limit >= max_positions else to

    kinds = tuple(replace(kind, window=low(kind.window), chunk=low(kind.chunk)) for kind in config.layer_kinds)
    scaling, boundary = config.rope_scaling, _boundary(config)
    if scaling is not None and boundary is not None and boundary > 2 * to:
        scaling = replace(scaling, original_max_positions=to)
    floor = low(config.temperature_floor or None) or 0
    found = replace(config, layer_kinds=kinds, rope_scaling=scaling, temperature_floor=floor)
    return None if found == config else found


def _windows(config: ModelConfig) -> list[int]:
    """Windows of all layers, and chunks of positions that see each other only."""
    return [limit for kind in config.layer_kinds for limit in (kind.window, kind.chunk) if limit is not None]


def _boundary(config: ModelConfig) -> int | None:
    """Positions of the context in which a scaling was trained; None where the build scales all positions alike."""
    scaling = config.rope_scaling
    if scaling is None or not (scaling.kind in ("llama3", "yarn") or (scaling.kind == "longrope" and scaling.extended)):
        return None
    return scaling.original_max_positions
