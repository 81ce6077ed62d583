"""Limits of an artifact: positions, rows, tokens of a step. Fixed at build time, since caches are static."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.errors import RefusedError
from compiler.model.config import ModelConfig


@dataclass(frozen=True)
class Limits:
    """`max_positions`: tokens of one row, prompt and answer; `max_batch`: rows; `prefill_chunk`: tokens of a step."""

    max_positions: int
    max_batch: int = 8
    prefill_chunk: int = 512


def positions_of(config: ModelConfig) -> int:
    """Number of positions that the model supports: those of its training, times a linear rope factor.

    llama3 scaling is part of the training of a checkpoint and included in its max_position_embeddings.
    """
    scaling = config.rope_scaling
    return int(config.max_positions * (scaling.factor if scaling and scaling.kind == "linear" else 1))


def limits_for(config: ModelConfig, max_positions: int | None, max_batch: int) -> Limits:
    """Limits of an artifact; `max_positions` None: all that the model supports.

    Raises:
        RefusedError: more positions than the model has, or a batch below 1.
    """
    most = positions_of(config)
    wanted = most if max_positions is None else max_positions
    if not 2 <= wanted <= most:
        raise RefusedError(
            f"`--max-positions` is 2 to {most} for this model; found {wanted}",
            hint="pass a number in this range; `--rope-scaling linear:FACTOR` extends it",
        )
    if max_batch < 1:
        raise RefusedError(f"`--max-batch` is at least 1; found {max_batch}", hint="pass `--max-batch 1` or more")
    return Limits(wanted, max_batch, min(512, wanted))
