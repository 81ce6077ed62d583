"""Measure the cost of quantization on rank files, as they will be run.

    float     x ──attn──mlp──> x ──attn──mlp──> ... ──head──> p     the checkpoint, one layer at a time
                │    │         │    │
    files       attn mlp       attn mlp                             each part on the float model's x: its own error
    files     y ──attn──mlp──> y ──attn──mlp──> ... ──head──> q     and on its own: what all of it adds up to

Every rank computes from its own file, by the names and with the scales that stand there; summands are added up and
columns laid side by side as the ranks will do (`sides.py`). The layout is not consulted: a tensor that was packed,
split or scaled wrongly stays wrong. Each block is given the float model's own input, so that the error shows in the
block that has it.

Both sides compute in float32, so that the rounding of the dtype is not part of the figures.
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

VERSION = 2
SAMPLES, LENGTH = 8, 256


def measure(
    model: StoredModel, files: Side, samples: Samples, progress: Callable[[int, int], None] | None = None
) -> Verdict:
    """Run `samples` through the checkpoint and through the rank files.

    `progress(tokens x layers done, in all)`. Memory: a layer of both, and what the samples take, twice.
    """
    import torch

    from compiler.decoder.kernels import PLAIN

    with torch.no_grad():
        return _measure(model.config, Decoded(model.config, [model], PLAIN), files, samples, progress)


class _Sums:
    """Inner products of what a part gives and what it should give, over all tokens."""

    def __init__(self, hidden: int) -> None:
        self._expected = self._found = self._both = 0.0
        self._off = np.zeros(hidden)

    def add(self, expected: Tensor, found: Tensor) -> None:
        """[1, tokens, hidden], and of what the ranks hold: every copy counts."""
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
        # A part may give nothing at all, and then must not.
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
        # In a function of its own: nothing of a layer is left when the next one is read.
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
    """The errors of one layer's parts; `xs` and `ys` are behind the layer afterwards."""
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
        """Log probabilities [tokens, vocab] of both sides for `ids` [tokens]."""
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
