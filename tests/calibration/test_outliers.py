from __future__ import annotations

import numpy as np
import pytest

from compiler.calibration.outliers import outliers


def test_an_input_is_there_once_with_its_largest_channels_and_its_median() -> None:
    x = np.arange(1, 10, dtype=np.float32)
    x[4] = 90
    maxima = {
        "layers.0.attn.q.inputs": x,
        "layers.0.attn.k.inputs": x,  # the same input
        "layers.0.attn.q.columns": 100 * x,
        "layers.0.attn.o.inputs": np.array([[1, 2], [3, 40]], np.float32),  # [heads, head_dim]
        "layers.10.mlp.down.inputs": np.ones(4, np.float32),
        "layers.2.moe.gate.inputs": np.array([[1, 0, 5], [2, 0, 3]], np.float32),  # [experts, in], one channel dead
        "layers.2.moe.down.inputs": np.zeros((2, 3), np.float32),
    }
    found = outliers(maxima)
    assert [one.name for one in found] == [
        "layers.0.attn.q", "layers.0.attn.o", "layers.2.moe.gate", "layers.10.mlp.down"
    ]  # fmt: skip
    first, heads, experts, even = found
    assert [(c.index, c.largest) for c in first.channels] == [(4, 90), (8, 9), (7, 8), (6, 7), (5, 6)]
    assert (first.median, first.ratio) == (6, 15)
    assert (heads.channels[0].index, heads.ratio) == (3, 16)
    assert (experts.channels[0].index, experts.median) == (2, 3.5)
    assert experts.ratio == pytest.approx(5 / 3.5)
    assert even.ratio == 1
