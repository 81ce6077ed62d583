"""Cost of whole mixtures: all of them and the float model run together, so that weights are read once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.decoder.layer import layer as run_layer
from compiler.errors import NumericsError
from compiler.numerics.gate.evidence import Evidence
from compiler.numerics.gate.predictions import predicted
from compiler.numerics.mixture.choice import NONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from compiler.numerics.mixture.choice import Mixture
    from compiler.numerics.mixture.costs import Ids, Progress
    from compiler.numerics.mixture.roundings import Roundings

TOKENS = 1024
_FLOAT = (NONE, NONE)


def trade(
    roundings: Roundings, mixtures: Sequence[Mixture], ids: Ids, progress: Progress | None = None
) -> list[Evidence]:
    """Evidence of every mixture against the float model. `ids` [rows, tokens].

    Raises NumericsError where the float model's states are not finite.
    """
    import torch

    from compiler.decoder.kernels import PLAIN
    from compiler.numerics.gate.sides import Decoded

    config = roundings.model.config
    whole = Decoded(config, [roundings.model], PLAIN, device=roundings.device)
    with torch.no_grad():
        x = whole.embed(ids)
        ys = [x] * len(mixtures)
        for layer in range(config.layers):
            x, ys = _advance(roundings, layer, x, ys, [of[layer] for of in mixtures])
            if progress is not None:
                progress(ids.size * (layer + 1), ids.size * config.layers)
        if not bool(x.isfinite().all()):
            raise NumericsError(
                "the source's states after the last layer are not finite",
                hint="a sound model has finite activations in float32: check the checkpoint",
            )
        head = whole.head()
        states, rows = x.flatten(0, 1), list(ids)
        return [Evidence(tuple(predicted((head, head), rows, (states, y.flatten(0, 1))))) for y in ys]


def _advance(
    roundings: Roundings, layer: int, x: Tensor, ys: Sequence[Tensor], schemes: Sequence[tuple[str, str]]
) -> tuple[Tensor, list[Tensor]]:
    """States of the float model and of the mixtures behind the layer; those that are still equal run once."""
    config, variants = roundings.model.config, roundings.layer(layer)
    done: dict[tuple[int, tuple[str, str]], Tensor] = {}
    for y, own in zip(ys, schemes, strict=True):
        if (id(y), own) not in done:
            done[id(y), own] = run_layer(config, variants.blocks(*own), y)
    after = run_layer(config, variants.blocks(), x) if (id(x), _FLOAT) not in done else done[id(x), _FLOAT]
    return after, [done[id(y), own] for y, own in zip(ys, schemes, strict=True)]
