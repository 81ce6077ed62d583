"""What quantisation has done to a model, measured on its rank files, as they will be run.

    float     x ──attn──mlp──> x ──attn──mlp──> ... ──head──> p     the checkpoint, one layer at a time
                │    │         │    │
    files       attn mlp       attn mlp                             each part on the float model's x: its own error
    files     y ──attn──mlp──> y ──attn──mlp──> ... ──head──> q     and on its own: what all of it adds up to

Every rank computes from its own file, by the names and with the scales that stand there; summands are added up and
columns laid side by side as the ranks will do. Nothing of the layout is asked: what was packed, split or scaled wrongly
stays wrong, and since each part is given the float model's own input, the part that is wrong is the one that shows.

Both sides compute in float32: what is measured is quantisation, not the rounding of the dtype.
"""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, isfinite
from typing import TYPE_CHECKING

import numpy as np

from compiler.stages.stored import RankFile, StoredModel
from compiler.stages.verdict import PartError, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.decoder.kernels import Kernels
    from compiler.ir.config import Activation, ModelConfig
    from compiler.stages.samples import Samples

VERSION = 1
SAMPLES, LENGTH = 8, 256


def measure(
    model: StoredModel,
    ranks: Sequence[Path],
    kernels: Kernels,
    samples: Samples,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Run `samples` through the checkpoint and through the rank files.

    `kernels`: how quantised layers of the files are computed; floating-point products are replaced. `progress(tokens x
    layers done, in all)`. Memory: a layer of both, and what the samples take, twice.
    """
    import torch

    with torch.no_grad():
        files = [RankFile(path, rank, model.config) for rank, path in enumerate(ranks)]
        return _measure(model, files, _wide(kernels), samples, progress)


def measure_logits(
    model: StoredModel,
    logits: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    samples: Samples,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """As `measure`, for files that only `logits` can read: token ids [tokens] to [tokens, vocab]. It has no parts."""
    import torch

    from compiler.decoder.kernels import PLAIN
    from compiler.decoder.ranks import attn_sum, embed_sum, log_probabilities, mlp_sum

    config, kernels, found = model.config, _wide(PLAIN), _Found()
    with torch.no_grad():
        table = model.embedding(_used(samples))
        xs = [embed_sum(config, [table], _places(ids, samples)) for ids in samples.ids]
        for layer, kind in enumerate(config.layer_kinds):
            weights = [model.layer(layer)]
            for i, x in enumerate(xs):
                a = attn_sum(config, kind, weights, x, kernels)
                xs[i] = x + a + mlp_sum(config, kind, weights, x if config.parallel_residual else x + a, kernels)
            if progress is not None:
                progress((layer + 1) * samples.tokens, config.layers * samples.tokens)
        head = [model.head()]
        for ids, x in zip(samples.ids, xs, strict=True):
            q = torch.from_numpy(logits(ids)).float().log_softmax(-1)
            found.add(ids, log_probabilities(config, head, x, kernels), q)
    return found.verdict((), samples)


def file_logits(
    config: ModelConfig, ranks: Sequence[Path], kernels: Kernels, ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Logits [tokens, vocab] of the rank files themselves for `ids` [tokens], less a constant each; in float32."""
    import torch

    from compiler.decoder.ranks import attn_sum, embed_sum, log_probabilities, mlp_sum

    files, kernels = [RankFile(path, rank, config) for rank, path in enumerate(ranks)], _wide(kernels)
    with torch.no_grad():
        used, places = np.unique(ids, return_inverse=True)
        x = embed_sum(config, [file.embedding(used) for file in files], torch.from_numpy(places)[None])
        for layer, kind in enumerate(config.layer_kinds):
            weights = [file.layer(layer) for file in files]
            a = attn_sum(config, kind, weights, x, kernels)
            x = x + a + mlp_sum(config, kind, weights, x if config.parallel_residual else x + a, kernels)
        found: NDArray[np.float32] = log_probabilities(config, [file.head() for file in files], x, kernels).numpy()
    return found


class _Sums:
    """Inner products of what a part gives and what it should give, over all tokens."""

    def __init__(self, hidden: int) -> None:
        self._expected = self._found = self._both = 0.0
        self._off = np.zeros(hidden)

    def add(self, expected: Tensor, found: Tensor) -> None:
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


def _wide(kernels: Kernels) -> Kernels:
    """The same with the products of `compiler.decoder.wide` where weights are floating-point."""
    from compiler.decoder.mlp import gated
    from compiler.decoder.moe import loop_over
    from compiler.decoder.wide import product

    def experts(x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation) -> Tensor:
        def run(tokens: Tensor, e: int) -> Tensor:
            return product(gated(product(tokens, gate_up[e], None), kind), down[e], None)

        return loop_over(x, chosen, share, gate_up.shape[0], run)

    return replace(kernels, linear=product, experts=experts)


def _measure(
    model: StoredModel,
    files: Sequence[RankFile],
    kernels: Kernels,
    samples: Samples,
    progress: Callable[[int, int], None] | None,
) -> Verdict:
    from compiler.decoder.ranks import embed_sum

    config, used = model.config, _used(samples)
    places = [_places(ids, samples) for ids in samples.ids]
    tables = [model.embedding(used)], [file.embedding(used) for file in files]
    xs, ys = ([embed_sum(config, table, one) for one in places] for table in tables)
    parts: list[PartError] = []
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, config.layers * samples.tokens)

    for layer in range(config.layers):
        # In a function of its own: nothing of a layer is left when the next one is read.
        parts += _layer(model, files, layer, kernels, xs, ys, advance)
    return _of_logits(model, files, kernels, samples, parts, xs, ys)


def _layer(
    model: StoredModel,
    files: Sequence[RankFile],
    layer: int,
    kernels: Kernels,
    xs: list[Tensor],
    ys: list[Tensor],
    advance: Callable[[int], None],
) -> tuple[PartError, PartError]:
    """The errors of one layer's parts; `xs` and `ys` are behind the layer afterwards."""
    from compiler.decoder.ranks import attn_sum, mlp_sum

    config, kind = model.config, model.config.layer_kinds[layer]
    whole, ranks = [model.layer(layer)], [file.layer(layer) for file in files]
    attn, mlp = _Sums(config.hidden), _Sums(config.hidden)
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        a, b = attn_sum(config, kind, whole, x, kernels), attn_sum(config, kind, ranks, y, kernels)
        attn.add(a, attn_sum(config, kind, ranks, x, kernels))
        x_mlp, y_mlp = (x, y) if config.parallel_residual else (x + a, y + b)
        c, d = mlp_sum(config, kind, whole, x_mlp, kernels), mlp_sum(config, kind, ranks, y_mlp, kernels)
        mlp.add(c, mlp_sum(config, kind, ranks, x_mlp, kernels))
        xs[i], ys[i] = x + a + c, y + b + d
        advance(x.shape[1])
    return attn.error(f"layers.{layer}.attn"), mlp.error(f"layers.{layer}.mlp")


def _of_logits(
    model: StoredModel,
    files: Sequence[RankFile],
    kernels: Kernels,
    samples: Samples,
    parts: Sequence[PartError],
    xs: Sequence[Tensor],
    ys: Sequence[Tensor],
) -> Verdict:
    from compiler.decoder.ranks import log_probabilities

    whole, ranks, found = [model.head()], [file.head() for file in files], _Found()
    for ids, x, y in zip(samples.ids, xs, ys, strict=True):
        p, q = (log_probabilities(model.config, side, z, kernels) for side, z in ((whole, x), (ranks, y)))
        found.add(ids, p, q)
    return found.verdict(parts, samples)


class _Found:
    """What next tokens are given, added up over samples."""

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


def _used(samples: Samples) -> NDArray[np.int64]:
    return np.unique(np.concatenate(samples.ids))


def _places(ids: NDArray[np.int64], samples: Samples) -> Tensor:
    """A token is named by its place among those in use: only their rows of the embeddings are read. [1, tokens]"""
    import torch

    return torch.from_numpy(np.searchsorted(_used(samples), ids))[None]
