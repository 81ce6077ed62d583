"""Cost of every part of a layer in every scheme: the divergence of the model with this part alone rounded.

    float          x ──layer 0──> x ──layer 1──> x ...  ──head──> p
    0.attn int8    └──rounded──> y ──layer 1──> y ...  ──head──> q        KL(p, q)
    1.attn int8                  └──rounded──> y ...  ──head──> q        KL(p, q)

All models run together, so that weights are read once; a model begins at its layer. Work grows with the square of the
number of layers, so the text is short; divergence needs few tokens, since it is one of equal inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.decoder.layer import layer as run_layer
from compiler.errors import MemoryCeilingError
from compiler.numerics.mixture.choice import NONE, part_name
from compiler.quantization.schemes import PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.numerics.mixture.roundings import Roundings

    Ids = NDArray[np.int64]
    Progress = Callable[[int, int], None]

_Found = dict[tuple[str, str], "Tensor"]
"""States of the models, by part and scheme."""
LENGTH, TOKENS = 128, 256
"""Tokens of a row, and of all rows."""
LEAST_TOKENS = 64
_HEAD_TOKENS = 64
"""Tokens whose probabilities are in memory at a time."""


def rows_that_fit(roundings: Roundings, max_memory: int, wanted: int = TOKENS) -> int:
    """Tokens of all models whose states fit below the ceiling beside a layer, at most `wanted`.

    Raises MemoryCeilingError where they are fewer than LEAST_TOKENS.
    """
    config = roundings.model.config
    models = 1 + len(PARTS) * len(roundings.schemes) * config.layers
    token = 4 * models * config.hidden
    fit = max(max_memory - roundings.memory, 0) // token
    if fit < LEAST_TOKENS:
        needed = roundings.memory + LEAST_TOKENS * token
        raise MemoryCeilingError(
            f"the costs of {models - 1} parts and schemes need {needed:,} bytes: {roundings.memory:,} for a layer in "
            f"all schemes, {token:,} for each of {LEAST_TOKENS} tokens; the ceiling is {max_memory:,}",
            hint=f"pass `--max-memory` of at least {needed}, or one scheme for the whole model",
        )
    return min(fit, wanted)


def costs(roundings: Roundings, ids: Ids, progress: Progress | None = None) -> dict[str, dict[str, float]]:
    """Mean divergence in nats, by part of a layer and scheme. `ids` [rows, tokens]."""
    import torch

    from compiler.decoder.kernels import PLAIN
    from compiler.numerics.gate.sides import Decoded

    config = roundings.model.config
    whole = Decoded(config, [roundings.model], PLAIN, device=roundings.device)
    with torch.no_grad():
        x, found = whole.embed(ids), _Found()
        for layer in range(config.layers):
            x = _advance(roundings, layer, x, found)
            if progress is not None:
                progress(ids.size * (layer + 1), ids.size * config.layers)
        measured = _divergence(whole.head(), x, list(found.values()))
    by_part: dict[str, dict[str, float]] = {}
    for (part, scheme), cost in zip(found, measured, strict=True):
        by_part.setdefault(part, {})[scheme] = cost
    return by_part


def _advance(roundings: Roundings, layer: int, x: Tensor, found: _Found) -> Tensor:
    """x behind the layer; advances the states `found`, and adds those of the models that begin here."""
    config, variants = roundings.model.config, roundings.layer(layer)
    plain = variants.blocks()
    for name, y in found.items():
        found[name] = run_layer(config, plain, y)
    for part in PARTS:
        for scheme in roundings.schemes:
            chosen = {**dict.fromkeys(PARTS, NONE), part: scheme.name}
            blocks = variants.blocks(chosen["attn"], chosen["mlp"])
            found[part_name(layer, part), scheme.name] = run_layer(config, blocks, x)
    return run_layer(config, plain, x)


def _divergence(head: Callable[[Tensor], Tensor], x: Tensor, others: list[Tensor]) -> list[float]:
    """Mean KL divergence of each of the states `others` from x [rows, tokens, hidden], after the head."""
    sums = [0.0] * len(others)
    tokens = x.shape[0] * x.shape[1]
    for own in _slices(tokens):
        p = head(x.flatten(0, 1)[own][None]).float().log_softmax(-1)
        weights = p.exp()
        for i, y in enumerate(others):
            q = head(y.flatten(0, 1)[own][None]).float().log_softmax(-1)
            sums[i] += float((weights * (p - q)).sum(dtype=weights.dtype))
    return [max(total / tokens, 0.0) for total in sums]


def _slices(tokens: int) -> Iterator[slice]:
    return (slice(at, min(at + _HEAD_TOKENS, tokens)) for at in range(0, tokens, _HEAD_TOKENS))
