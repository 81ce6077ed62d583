"""Choice of the layers whose parts the gate compares, and of the held-out text."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from compiler.model.roles import axis_sizes, model_tensors, shape_of

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig

SEED = 0
"""Seed of the choice, recorded in the manifest."""


def chosen_layers(config: ModelConfig, count: int | None, seed: int = SEED) -> tuple[int, ...]:
    """Layers to compare, ascending: the first, the last, the widest, and `count` others at random; None: all."""
    everything = range(config.layers)
    if count is None:
        return tuple(everything)
    sizes, widths = axis_sizes(config), Counter[int]()
    for tensor in model_tensors(config):
        if tensor.layer is not None:
            widths[tensor.layer] += prod(shape_of(tensor, sizes))
    always = {0, config.layers - 1, max(everything, key=lambda layer: widths[layer])}
    others = [layer for layer in everything if layer not in always]
    drawn = np.random.default_rng(seed).permutation(others)[:count]
    return tuple(sorted({*always, *(int(layer) for layer in drawn)}))
