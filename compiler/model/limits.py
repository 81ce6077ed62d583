"""Limits of an artifact: positions, rows, tokens of a step. Fixed at build time, since caches are static."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.model.rope import of_length


@dataclass(frozen=True)
class Limits:
    """`max_positions`: tokens of one row, prompt and answer; `max_batch`: rows; `prefill_chunk`: tokens of a step."""

    max_positions: int
    max_batch: int = 8
    prefill_chunk: int = 512


def positions_of(config: ModelConfig) -> int:
    """Number of positions that the model supports: those of its training, times the factor of scalings that come on top
    of it. llama3, longrope and mostly yarn are part of the training, and included in max_position_embeddings.
    """
    scaling = config.rope_scaling
    if scaling is None:
        return config.max_positions
    if scaling.kind in ("linear", "dynamic"):
        return max(int(config.max_positions * scaling.factor), config.max_positions)
    if scaling.kind == "yarn":
        return max(int(scaling.original_max_positions * scaling.factor), config.max_positions)
    return config.max_positions


def limits_for(config: ModelConfig, max_positions: int | None, max_batch: int, *, extended: bool = False) -> Limits:
    """Limits of an artifact; `max_positions` None: all that the model supports. A checkpoint with dynamic scaling is
    extended only on request: beyond its training, each length has frequencies of its own (see RopeScaling).

    `extended`: the user asked for the scaling. Raises RefusedError for more positions than the model has, or a batch
    below 1.
    """
    most = positions_of(config)
    dynamic = config.rope_scaling is not None and config.rope_scaling.kind == "dynamic"
    usual = config.max_positions if dynamic and not extended else most
    wanted = usual if max_positions is None else max_positions
    if not 2 <= wanted <= most:
        raise RefusedError(
            f"`--max-positions` is 2 to {most} for this model; found {wanted}",
            hint="pass a number in this range; `--rope-scaling linear:FACTOR` extends it",
        )
    if max_batch < 1:
        raise RefusedError(f"`--max-batch` is at least 1; found {max_batch}", hint="pass `--max-batch 1` or more")
    return Limits(wanted, max_batch, min(512, wanted))


def built_for(
    config: ModelConfig, max_positions: int | None, max_batch: int, *, extended: bool = False
) -> tuple[ModelConfig, Limits]:
    """Config and limits of a build: the rotary frequencies are those for its length (see limits_for, RopeScaling)."""
    limits = limits_for(config, max_positions, max_batch, extended=extended)
    return replace(config, rope_scaling=of_length(config.rope_scaling, limits.max_positions)), limits
