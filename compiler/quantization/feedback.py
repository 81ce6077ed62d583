"""GPTQ (Frantar et al. 2022): rounding errors of a column are fed back into the columns that are not rounded yet.

    error of y over a text     tr (W - Q) H (W - Q)^T         H = X^T X, summed over the tokens of the text
    H + lambda I = (U^T U)^-1                                 U upper triangular, lambda = DAMPING * mean of H_jj
    for every column j         e = (W_j - Q_j) / U_jj,  W_k = W_k - e U_jk for all k > j

Algorithm 1 of the paper, with its blocks of columns. Two choices are those of its authors' later code: columns go in
descending order of H_jj, since those that are rounded first have most others left to make up for them; and groups have
scales of the weight before any feedback, so that this order does not scatter them.

The error of y is the sum of e^2 over all columns. So the scale of a group is the one of some, from that of its largest
magnitude downwards, with the least sum of (W_j - nearest(W_j))^2 / U_jj^2: its largest weights saturate where others
gain more by finer steps, and where feedback makes up for it.

Feedback is greedy. A row for which rounding to nearest, with the scales of its largest magnitudes, has the lesser error
keeps that, so that no row gets worse.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compiler.quantization.format import Format, Values, group_maxima, grouped, nearest
from compiler.quantization.parts import rounded_up

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 0.01
"""Share of the mean of H_jj that is added to all of them (the paper's value)."""
BLOCK = 128
"""Columns whose feedback into later blocks is one product."""
SHARES = tuple(1 - 0.025 * step for step in range(13))
"""Scales to choose from, as shares of that of the largest magnitude."""
_SEARCHED = 1 << 20
"""Weights whose scales are searched for at a time, by a thread."""
_TRIES = 4
"""Factorizations to try, each with ten times the damping of the one before."""


@dataclass(frozen=True)
class Rounded:
    """Rounded and dequantized weight [out, in], and its scales [out, in / group]. Errors of y over the text:
    `to_nearest` of rounding to nearest with the scales of the largest magnitudes, `error` of these values.
    """

    values: Values
    scales: Values
    to_nearest: float
    error: float


def group_scales(weight: Values, form: Format, group: int) -> Values:
    """Scales [out, in / group] of the largest magnitudes of a weight [out, in], exact in bfloat16."""
    return rounded_up(form.scales(group_maxima(weight, group)))


def searched_scales(weight: Values, importance: Values, form: Format, group: int) -> Values:
    """Scales [out, in / group] among SHARES with the least squared error of rounding to nearest, weighted by the
    `importance` [in] of each column; exact in bfloat16.
    """
    import torch

    columns, rows = grouped(importance, group), max(_SEARCHED // weight.shape[-1], 1)

    def search(begin: int) -> Values:
        own = weight[begin : begin + rows]
        parts, largest = grouped(own, group), group_scales(own, form, group)
        best, least = largest, np.full(largest.shape, np.inf, np.float32)
        for share in SHARES:
            scales = rounded_up(largest * np.float32(share))
            error = np.einsum("rgc,gc->rg", np.square(parts - nearest(own, scales, form).reshape(parts.shape)), columns)
            better = error < least
            best, least = np.where(better, scales, best), np.where(better, error, least)
        return best

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return np.concatenate(list(threads.map(search, range(0, len(weight), rows))))


def compensated(weight: Values, hessian: Values, form: Format, group: int) -> Rounded:
    """Weight [out, in] rounded with feedback in groups of columns, for a Hessian [in, in]."""
    largest = group_scales(weight, form, group)
    plain = nearest(weight, largest, form)
    of_plain = quadratic_error(weight - plain, hessian)
    factor = _factor(hessian)
    if factor is None:
        return Rounded(plain, largest, float(of_plain.sum()), float(of_plain.sum()))
    order, upper = factor
    importance = np.empty(len(order), np.float32)
    importance[order] = 1 / np.square(np.diagonal(upper))
    scales = searched_scales(weight, importance, form, group)
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
    return Rounded(
        np.where(better[:, None], fed, plain),
        np.where(better[:, None], scales, largest),
        float(of_plain.sum()),
        float(least.sum()),
    )


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
