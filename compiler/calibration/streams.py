"""Residual streams of a text on disk, one layer after the other: a killed run resumes at the first layer not done.

    x-0 --layer 0--> x-1 --layer 1--> x-2 ...          x-k: residual stream of all samples after k layers
            |                |
     layer-0.safetensors  layer-1.safetensors ...      result of a layer

A layer is done when the file of its result exists; the stream after it is complete by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compiler.storage.files import spill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from compiler.calibration.samples import Samples
    from compiler.decoder.weights import StoredModel
    from compiler.model.config import ModelConfig


def result(work: Path, layer: int) -> Path:
    """File of a layer's result."""
    return work / f"layer-{layer}.safetensors"


def begin(model: StoredModel, samples: Samples, work: Path) -> int:
    """First layer that is not done in the folder `work`, whose stream is there. Raises DiskFullError."""
    work.mkdir(parents=True, exist_ok=True)
    stream = 4 * samples.tokens * model.config.hidden
    first = _done(work, model.config.layers, stream)
    kept = set() if first is None else {f"x-{first}", *(result(work, layer).name for layer in range(first))}
    for left in work.iterdir():
        if left.name not in kept:
            left.unlink()
    if first is None:
        spill.check_room(work, 2 * stream)
        embed(model, samples, work / "x-0")
        first = 0
    return first


def embed(model: StoredModel, samples: Samples, path: Path) -> None:
    """Write the stream before the first layer."""
    import torch

    from compiler.decoder.ranks import embed_sum

    used, places = np.unique(np.concatenate(samples.ids), return_inverse=True)
    table, begin = model.embedding(used), 0
    with torch.no_grad(), spill.written(path) as append:
        for ids in samples.ids:
            # The table has only rows of tokens in use; a token's row is its place among them.
            tokens = torch.from_numpy(places[begin : begin + ids.size])[None]
            append(embed_sum(model.config, [table], tokens)[0].numpy().data)
            begin += ids.size


def states(config: ModelConfig, samples: Samples, path: Path) -> Iterator[Tensor]:
    """x float32 [1, tokens, hidden] of each sample."""
    import torch

    begin = 0
    for ids in samples.ids:
        yield torch.from_numpy(spill.rows(path, begin, ids.size, config.hidden))[None]
        begin += ids.size


def _done(work: Path, layers: int, stream: int) -> int | None:
    """Number of layers that a killed run has finished; None where there is no x to resume from."""
    done = 0
    while done < layers and result(work, done).is_file():
        done += 1
    # A run killed between the two renames leaves the next x without the result: that layer runs again.
    path = work / f"x-{done}"
    return done if path.is_file() and path.stat().st_size == stream else None
