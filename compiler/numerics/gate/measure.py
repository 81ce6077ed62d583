"""Measure the cost of quantization on rank files.

    float     x ──attn──mlp──> x ──attn──mlp──> ... ──head──> p     the checkpoint, one layer at a time
                │    │         │    │
    files       attn mlp       attn mlp                             each part on the float model's x: its own error
    files     y ──attn──mlp──> y ──attn──mlp──> ... ──head──> q     the whole on its own y: the total error

Every rank computes from its own file, with its names and scales; summands are added up and columns concatenated as by
separate ranks (`sides.py`). The layout is not consulted: a tensor that was packed, split or scaled wrongly stays wrong.
Each block also runs on the float model's input, so that an error shows in the block that causes it.

Both sides compute in float32, so that rounding to the dtype is not part of the figures.
"""

from __future__ import annotations

from math import exp, inf, isfinite
from typing import TYPE_CHECKING

import numpy as np

from compiler.decoder.layer import attention
from compiler.decoder.layer import layer as run_layer
from compiler.numerics.gate.sides import Decoded
from compiler.numerics.gate.verdict import PartError, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.calibration.samples import Samples
    from compiler.decoder.weights import StoredModel
    from compiler.model.config import ModelConfig
    from compiler.model.roles import Block
    from compiler.numerics.gate.sides import Side

VERSION = 3
SAMPLES, LENGTH = 8, 256


def measure(
    model: StoredModel, files: Side, samples: Samples, progress: Callable[[int, int], None] | None = None
) -> Verdict:
    """Run `samples` through the checkpoint and through the rank files.

    `progress(tokens x layers done, total)`. Memory: one layer and the states of all samples, of both sides.
    """
    import torch

    from compiler.decoder.kernels import PLAIN

    with torch.no_grad():
        return _measure(model.config, Decoded(model.config, [model], PLAIN), files, samples, progress)


class _Sums:
    """Inner products of the expected and the found output of a part, over all tokens."""

    def __init__(self, hidden: int) -> None:
        self._expected = self._found = self._both = 0.0
        self._off = np.zeros(hidden)

    def add(self, expected: Tensor, found: Tensor) -> None:
        """Add `expected` [1, tokens, hidden] and `found` [copies, tokens, hidden]; every copy counts."""
        expected = expected.expand_as(found)
        a, b = expected.flatten(0, -2).double(), found.flatten(0, -2).double()
        self._expected += float(a.square().sum())
        self._found += float(b.square().sum())
        self._both += float((a * b).sum())
        self._off += (a - b).square().sum(0).numpy()

    def error(self, name: str) -> PartError:
        if not np.isfinite(self._off).all():
            return PartError(name, inf, 0.0, int(np.argmax(~np.isfinite(self._off))))
        norm = max(self._expected, 1e-60) ** 0.5
        cosine = self._both / (norm * max(self._found, 1e-60) ** 0.5)
        # Where the expected output is all zeros, so must be the found one.
        silent = self._expected == self._found == 0
        return PartError(name, float(self._off.sum() ** 0.5 / norm), 1.0 if silent else cosine, int(self._off.argmax()))


def _measure(
    config: ModelConfig,
    whole: Side,
    files: Side,
    samples: Samples,
    progress: Callable[[int, int], None] | None,
) -> Verdict:
    xs, ys = whole.embed(samples.ids), files.embed(samples.ids)
    parts: list[PartError] = []
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, config.layers * samples.tokens)

    for layer in range(config.layers):
        # A function call per layer frees its weights before the next layer is read.
        parts += _layer(config, whole, files, layer, xs, ys, advance)
    before, after, found = whole.head(), files.head(), _Found()
    for ids, x, y in zip(samples.ids, xs, ys, strict=True):
        found.add(ids, before(x), after(y))
    return found.verdict(parts, samples)


def _layer(
    config: ModelConfig,
    whole: Side,
    files: Side,
    layer: int,
    xs: list[Tensor],
    ys: list[Tensor],
    advance: Callable[[int], None],
) -> tuple[PartError, ...]:
    """Errors of one layer's parts; advances `xs` and `ys` by the layer."""
    true, found = whole.layer(layer), files.layer(layer)
    errors = {"attn": _Sums(config.hidden), "mlp": _Sums(config.hidden)}

    def compare(block: Block, x: Tensor, summand: Tensor) -> None:
        own = attention(config, found, x) if block == "attn" else found.mlp(x)
        errors[block].add(true.sum(summand), found.sum(own))

    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        xs[i], ys[i] = run_layer(config, true, x, compare), run_layer(config, found, y)
        advance(x.shape[1])
    return tuple(sums.error(f"layers.{layer}.{block}") for block, sums in errors.items())


class _Found:
    """Figures of next-token predictions, added up over samples."""

    def __init__(self) -> None:
        self._kl, self._agree, self._losses = 0.0, 0, np.zeros(2)

    def add(self, ids: NDArray[np.int64], p: Tensor, q: Tensor) -> None:
        """Add the log probabilities [tokens, vocab] of both sides for `ids` [tokens]."""
        import torch

        self._kl += float((p.exp() * (p - q)).sum(-1).double().sum())
        self._agree += int((p.argmax(-1) == q.argmax(-1)).sum())
        following = torch.from_numpy(ids[1:, None])
        self._losses -= [float(log[:-1].gather(1, following).double().sum()) for log in (p, q)]

    def verdict(self, parts: Sequence[PartError], samples: Samples) -> Verdict:
        predicted = samples.tokens - len(samples.ids)
        before, after = (exp(min(loss / predicted, 700)) if isfinite(loss) else inf for loss in self._losses)
        return Verdict(
            parts=tuple(parts),
            tokens=samples.tokens,
            text=samples.text,
            kl=max(self._kl / samples.tokens, 0.0) if isfinite(self._kl) else inf,
            top1_agreement=self._agree / samples.tokens,
            perplexity_float=before,
            perplexity=after,
        )
