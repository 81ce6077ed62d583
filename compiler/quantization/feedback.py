"""GPTQ (Frantar et al. 2022): rounding errors of a column are fed back into the columns that are not rounded yet.

    error of y over a text     tr (W - Q) H (W - Q)^T         H = X^T X, summed over the tokens of the text
    H + lambda I = (U^T U)^-1                                 U upper triangular, lambda = DAMPING * mean of H_jj
    for every column j         e = (W_j - Q_j) / U_jj,  W_k = W_k - e U_jk for all k > j

Algorithm 1 of the paper, with its blocks of columns. Two choices are those of its authors' later code: columns go in
descending order of H_jj, since those that are rounded first have most others left to make up for them; and groups have
the scales of the weight before any feedback, so that this order does not scatter them.

Feedback is greedy. A row for which rounding to nearest has the lesser error keeps it, so that no row gets worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compiler.quantization.format import Format, Values, group_maxima, nearest
from compiler.quantization.parts import rounded_up

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 0.01
"""Share of the mean of H_jj that is added to all of them (the paper's value)."""
BLOCK = 128
"""Columns whose feedback into later blocks is one product."""
_TRIES = 4
"""Factorizations to try, each with ten times the damping of the one before."""


@dataclass(frozen=True)
class Rounded:
    """Rounded and dequantized weight [out, in]. Errors of y over the text: `to_nearest` of rounding to nearest with the
    same scales, `error` of these values.
    """

    values: Values
    to_nearest: float
    error: float


def group_scales(weight: Values, form: Format, group: int) -> Values:
    """Scales [out, in / group] of a weight [out, in], exact in bfloat16."""
    return rounded_up(form.scales(group_maxima(weight, group)))


def compensated(weight: Values, hessian: Values, scales: Values, form: Format) -> Rounded:
    """Weight [out, in] rounded with feedback, for a Hessian [in, in] and scales [out, in / group]."""
    plain = nearest(weight, scales, form)
    of_plain = quadratic_error(weight - plain, hessian)
    factor = _factor(hessian)
    if factor is None:
        return Rounded(plain, float(of_plain.sum()), float(of_plain.sum()))
    order, upper = factor
    group = weight.shape[-1] // scales.shape[-1]
    # Columns are rows here, so that each is contiguous.
    left = np.ascontiguousarray(weight.T[order], np.float32)
    each = np.ascontiguousarray(scales.T)[order // group]
    found = np.empty_like(left)
    for begin in range(0, len(left), BLOCK):
        end = min(begin + BLOCK, len(left))
        errors = np.empty((end - begin, left.shape[1]), np.float32)
        for j in range(begin, end):
            found[j] = form.decode(form.round(left[j] / each[j])) * each[j]
            errors[j - begin] = (left[j] - found[j]) / upper[j, j]
            left[j + 1 : end] -= upper[j, j + 1 : end, None] * errors[j - begin]
        left[end:] -= upper[begin:end, end:].T @ errors
    fed = np.empty_like(plain)
    fed[:, order] = found.T
    of_fed = quadratic_error(weight - fed, hessian)
    better = of_fed < of_plain
    least = np.where(better, of_fed, of_plain)
    return Rounded(np.where(better[:, None], fed, plain), float(of_plain.sum()), float(least.sum()))


def quadratic_error(off: Values, hessian: Values) -> NDArray[np.float64]:
    """Error of every row of y, summed over the text: off [out, in] -> [out]."""
    found: NDArray[np.float64] = np.einsum("oj,oj->o", off @ hessian, off, dtype=np.float64)
    return found


def _factor(hessian: Values) -> tuple[NDArray[np.intp], Values] | None:
    """Order of the columns, and U [in, in] for that order; None where no damping makes H positive definite."""
    import torch

    diagonal = np.diagonal(hessian)
    order = np.argsort(-diagonal, kind="stable")
    damping = DAMPING * float(diagonal.mean(dtype=np.float64))
    if not np.isfinite(damping) or damping <= 0:
        return None
    permuted = torch.from_numpy(np.ascontiguousarray(hessian[np.ix_(order, order)]))
    for power in range(_TRIES):
        found = _upper(permuted, damping * 10.0**power)
        if found is not None:
            return order, found.numpy()
    return None


def _upper(hessian: Tensor, damping: float) -> Tensor | None:
    import torch

    damped = hessian.clone()
    damped.diagonal().add_(damping)
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if failed or not bool(upper.isfinite().all()) else upper
