"""Folds against their formulas."""

from __future__ import annotations

import numpy as np
import torch

from compiler.model.fold import Values, fold
from compiler.model.lazy import Fold

VALUES = np.random.default_rng(3).standard_normal((5, 64)).astype(np.float32)


def _bfloat16(values: Values) -> Values:
    rounded: Values = torch.from_numpy(values).bfloat16().float().numpy()
    return rounded


def _exact(values: Values) -> Values:
    return values


def test_plus_one() -> None:
    np.testing.assert_array_equal(fold("plus_one", VALUES, _exact), VALUES + 1)


def test_rows_of_length_one() -> None:
    folded = fold("l2_rows", VALUES, _exact)
    np.testing.assert_allclose(np.linalg.norm(folded, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(folded / folded[:, :1], VALUES / VALUES[:, :1], rtol=1e-5)


def test_rows_in_bfloat16_are_what_the_model_computes_in_bfloat16() -> None:
    own = torch.from_numpy(VALUES).bfloat16()
    expected = torch.nn.functional.normalize(own).float().numpy()
    found = fold("l2_rows", own.float().numpy(), _bfloat16)
    np.testing.assert_array_equal(found, expected)
    late = _bfloat16(fold("l2_rows", own.float().numpy(), _exact))
    assert (late != expected).mean() > 0.1


def test_padding_stays_zero_and_blocks_of_rows_give_the_same_bits() -> None:
    padded = np.concatenate([VALUES, np.zeros((3, 64), np.float32)])
    steps: tuple[Fold, ...] = ("", "l2_rows", "plus_one")
    for step in steps:
        whole = fold(step, padded, _bfloat16)
        blocks = np.concatenate([fold(step, padded[i : i + 2], _bfloat16) for i in range(0, 8, 2)])
        np.testing.assert_array_equal(whole, blocks)
    assert not fold("l2_rows", padded, _bfloat16)[5:].any()
