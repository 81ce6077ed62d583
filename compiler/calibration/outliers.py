"""Outliers: channels that dominate the input of a linear layer and make it hard to quantize.

A scale for all channels of an input must cover the largest: where that is 100 times the median channel, the median has
1.27 of int8's 127 steps. SmoothQuant and AWQ divide such channels before they round.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.model.roles import ROLES, linear_axes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

KEPT = 5
"""Number of channels to report per input."""


@dataclass(frozen=True)
class Channel:
    """Channel of an input. `largest`: |x| over the calibration text."""

    index: int
    largest: float


@dataclass(frozen=True)
class Outliers:
    """Largest channels of an input, in descending order, and the median of all, each by its largest |x|.

    `name`: layer and first role that reads it (`layers.3.mlp.down`). Experts: the largest of all experts.
    """

    name: str
    median: float
    channels: tuple[Channel, ...]

    @property
    def ratio(self) -> float:
        """Largest channel by the median one."""
        return self.channels[0].largest / max(self.median, float(np.finfo(np.float32).tiny))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


def outliers(maxima: Mapping[str, NDArray[np.float32]]) -> tuple[Outliers, ...]:
    """Outliers of every input in the result of `calibrate`, layer by layer; once for an input that several roles read.

    Channels that are always zero are left out, and so are inputs without others.
    """
    found: list[Outliers] = []
    inputs = {name.removesuffix(".inputs"): values for name, values in maxima.items() if name.endswith(".inputs")}
    seen: set[tuple[int, bytes]] = set()
    order = {role: i for i, role in enumerate(ROLES)}
    for layer, role in sorted(map(_place, inputs), key=lambda place: (place[0], order[place[1]])):
        name = f"layers.{layer}.{role}"
        values = inputs[name]
        if (layer, values.tobytes()) in seen:
            continue
        seen.add((layer, values.tobytes()))
        lead, _, _ = linear_axes(role)
        channels = values.max(tuple(range(len(lead)))).reshape(-1)
        if channels.any():
            largest = np.argsort(-channels, kind="stable")[:KEPT]
            kept = tuple(Channel(int(i), float(channels[i])) for i in largest)
            found.append(Outliers(name, float(np.median(channels[channels > 0])), kept))
    return tuple(found)


def _place(name: str) -> tuple[int, str]:
    _, layer, role = name.split(".", 2)
    return int(layer), role
