"""Spec of the one cache of an artifact, from its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from compiler.errors import UsageError
from compiler.targets.vllm.bake import BakeSpec
from compiler.targets.vllm.copies import copies
from compiler.targets.vllm.images import dialect_of
from compiler.targets.vllm.section import OnMiss
from compiler.targets.vllm.serving import Serving, with_options
from compiler.targets.vllm.version import image_of, version_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.model.config import ModelConfig
    from compiler.model.limits import Limits
    from compiler.targets.values import PlannedRanks
    from compiler.targets.vllm.options import VllmOptions

BATCHED_TOKENS = 8192
"""Most tokens of all rows in a step, where rows are that long: vLLM's default for large GPUs."""


def check_options(options: VllmOptions) -> None:
    """Raise UsageError for arguments that no server of this target takes, or an unknown `on_miss`."""
    with_options(Serving(1, "", 1, 1, 1, 0), options.serving)
    if options.on_miss not in get_args(OnMiss):
        raise UsageError(
            f"`--on-miss` is one of {', '.join(get_args(OnMiss))}; found `{options.on_miss}`",
            hint="leave it out for warn",
        )


def specs(plan: PlannedRanks[VllmOptions], source: str) -> Sequence[BakeSpec]:
    """Spec of the cache. `source`: digest of the model's source."""
    return (spec_of(plan.config, plan.tp, plan.dtype, plan.limits, plan.options, plan.digest, source),)


def spec_of(
    config: ModelConfig, tp: int, dtype: str, limits: Limits, options: VllmOptions, plan: str, source: str
) -> BakeSpec:
    """Spec of the cache of a model's weights. `plan`, `source`: digests."""
    image, plain = image_of(options), bool(copies(config, options))
    serving = Serving(
        tp=tp,
        dtype=dtype,
        max_model_len=limits.max_positions,
        max_num_seqs=limits.max_batch,
        max_num_batched_tokens=max(limits.max_batch, min(BATCHED_TOKENS, limits.max_positions)),
        block_size=0,
        load_format="auto" if plain else "sharded_state",
    )
    serving = with_options(serving, options.serving)
    dialect = dialect_of(version_of(options))
    environment = dict(image.environment) if image else {}
    return BakeSpec(serving, dialect, plan, source, config.vocab, environment, None if plain else config)
