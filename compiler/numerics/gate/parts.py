"""Comparison of the parts of a layer: products over tokens, and a layer that runs on two inputs together."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from compiler.decoder.layer import Blocks
from compiler.numerics.gate.verdict import PartError

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.model.roles import Block


class PartSums:
    """Sums over tokens of products of the expected, the scheme's and the found output of a part."""

    def __init__(self, hidden: int) -> None:
        self._expected = self._found = self._both = self._stream = 0.0
        self._tokens = 0
        self._off, self._scheme, self._apart = np.zeros(hidden), np.zeros(hidden), np.zeros(hidden)

    def add(self, expected: Tensor, found: Tensor, stream: Tensor, scheme: Tensor | None) -> None:
        """Add float32 [tokens, hidden], `found` [copies, tokens, hidden]: every copy counts. `stream`: the residual
        stream behind the part.
        """
        a = expected.double()
        for copy in found:
            b = copy.double()
            off = (a - b).square()
            self._expected += float(a.square().sum())
            self._found += float(b.square().sum())
            self._both += float((a * b).sum())
            self._off += off.sum(0).numpy()
            self._stream += float((off.sum(-1) / stream.double().square().sum(-1).clamp_min(1e-60)).sum())
            self._tokens += len(a)
            if scheme is not None:
                s = scheme.double()
                self._scheme += (s - a).square().sum(0).numpy()
                self._apart += (s - b).square().sum(0).numpy()

    def error(self, name: str, floor: float | None) -> PartError:
        """Error of the part `name`. `floor`: error of rounding to the files' dtype, a share of the expected output;
        None without a scheme.
        """
        if not np.isfinite(self._off).all():
            first = int(np.argmax(~np.isfinite(self._off)))
            away = None if floor is None else inf
            return PartError(name, inf, 0.0, first, inf, away, away, first)
        norm = max(self._expected, 1e-60) ** 0.5
        cosine = self._both / (norm * max(self._found, 1e-60) ** 0.5)
        # Where the expected output is all zeros, so must be the found one.
        silent = self._expected == self._found == 0
        distance = channel = None
        apart = 0
        if floor is not None:
            own = self._scheme.sum() + floor**2 * self._expected
            distance = float((self._apart.sum() / max(own, 1e-60)) ** 0.5)
            # A channel whose rounding happens to cancel has no error of its own: that of the others counts, too.
            ratios = self._apart / np.maximum(self._scheme + own / len(self._scheme), 1e-60)
            apart, channel = int(ratios.argmax()), float(ratios.max() ** 0.5)
        return PartError(
            name,
            float(self._off.sum() ** 0.5 / norm),
            1.0 if silent else cosine,
            int(self._off.argmax()),
            float((self._stream / max(self._tokens, 1)) ** 0.5),
            distance,
            channel,
            apart,
        )


class Paired(Blocks):
    """Layer that runs on its own input and on the float model's, `inputs` by block, together; `found`: outputs of the
    latter.
    """

    def __init__(self, inner: Blocks, inputs: dict[Block, Tensor]) -> None:
        self._inner, self._inputs = inner, inputs
        self.found: dict[Block, Tensor] = {}

    def qkv(self, x: Tensor, /) -> Tensor:
        return self._inner.qkv(self._both("attn", x))

    def mean_squares(self, qkv: Tensor, /) -> Tensor:
        return self._inner.mean_squares(qkv)

    def attn(self, x: Tensor, mean_squares: Tensor | None = None, /) -> Tensor:
        if mean_squares is None:
            return self._split("attn", self._inner.attn(self._both("attn", x)))
        return self._split("attn", self._inner.attn(x, mean_squares))

    def mlp(self, x: Tensor, /) -> Tensor:
        return self._split("mlp", self._inner.mlp(self._both("mlp", x)))

    def sum(self, summand: Tensor, /) -> Tensor:
        return self._inner.sum(summand)

    def norm(self, role: str, y: Tensor, /) -> Tensor:
        return self._inner.norm(role, y)

    def _both(self, block: Block, y: Tensor) -> Tensor:
        import torch

        x = self._inputs[block]
        return torch.cat([x.expand(*y.shape[:-3], *x.shape), y], -3)

    def _split(self, block: Block, summand: Tensor) -> Tensor:
        count = len(self._inputs[block])
        self.found[block] = summand[..., :count, :, :]
        return summand[..., count:, :, :]
