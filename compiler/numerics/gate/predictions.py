"""Evidence from states after the last layer: the float model's predictions beside those of the files."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from compiler.numerics.gate.evidence import TokenBlock, blocks_of
from compiler.numerics.gate.parts import PartSums
from compiler.numerics.gate.verdict import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.numerics.gate.verdict import PartError

    Ids = NDArray[np.int64]

_HEAD_TOKENS = 256
"""Tokens whose logits are in memory at a time."""
_SLICE = 32
"""Tokens whose probabilities are compared at a time."""
Head = Callable[["Tensor"], "Tensor"]
"""Function from states [1, tokens, hidden] or [copies, 1, tokens, hidden] to logits [tokens, vocab]."""


def predicted(heads: tuple[Head, Head], rows: Sequence[Ids], states: tuple[Tensor, Tensor]) -> Iterator[TokenBlock]:
    """Evidence of `rows` by the heads of the float model and of the files, from the states after the last layer: x
    [tokens, hidden] of the float model, y [tokens, hidden] or [copies, tokens, hidden] of the files.
    """
    (before, after), (x, y), ids = heads, states, np.concatenate(rows)
    kl, agree = np.empty(len(ids)), np.empty(len(ids), bool)
    losses = {side: np.empty(len(ids)) for side in ("float", "files")}
    for begin in range(0, len(ids), _HEAD_TOKENS):
        own = slice(begin, begin + _HEAD_TOKENS)
        p, q = before(x[own][None]), after(y[..., own, :].unsqueeze(-3))
        # The last token of a row has no next one; its loss is left out below.
        _compare(p, q, np.append(ids, 0)[begin + 1 : begin + 1 + len(p)], kl[own], agree[own], losses, begin)
    begin = 0
    for row in rows:
        end = begin + len(row)
        own_losses = {side: of[begin : end - 1].tolist() for side, of in losses.items()}
        yield from blocks_of(kl[begin:end].tolist(), agree[begin:end].tolist(), own_losses)
        begin = end


def head_error(heads: tuple[Head, Head, Head], states: Sequence[Tensor], vocab: int, floor: float) -> PartError:
    """Error of a quantized head, by the heads of the float model, of the files and of the scheme. `states`: of the
    float model after the last layer, [tokens, hidden]; `floor`: see `PartSums.error`.
    """
    sums = PartSums(vocab)
    for x in states:
        for own in x.split(_SLICE):
            expected, found, scheme = (head(own[None]) for head in heads)
            sums.add(expected, found[None], expected, scheme)
    return sums.error(HEAD, floor)


def _compare(
    p: Tensor,
    q: Tensor,
    following: Ids,
    kl: NDArray[np.float64],
    agree: NDArray[np.bool_],
    losses: dict[str, NDArray[np.float64]],
    place: int,
) -> None:
    """Write divergence, agreement and losses of logits p and q [tokens, vocab] for the next tokens `following`; losses
    from index `place` on.
    """
    import torch

    for at in range(0, len(p), _SLICE):
        own = slice(at, at + _SLICE)
        a, b = p[own].log_softmax(-1), q[own].log_softmax(-1)
        kl[own] = (a.exp() * (a - b)).sum(-1).double().numpy()
        agree[own] = (a.argmax(-1) == b.argmax(-1)).numpy()
        targets = torch.from_numpy(following[own])[:, None]
        for side, log in (("float", a), ("files", b)):
            losses[side][place + at : place + at + len(a)] = -log.gather(1, targets)[:, 0].double().numpy()
