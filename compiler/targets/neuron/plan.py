"""Plan of a model on NeuronCores: heads, padding, buckets, batch sizes and caches. Arithmetic on sizes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import ITEMSIZE
from compiler.model.parallel import padded
from compiler.targets.neuron.buckets import Buckets, buckets_of
from compiler.targets.neuron.heads import HeadPlan, Strategy, head_plan

FLASH_POSITIONS = 128
"""Positions that transformers-neuronx adds to a cache which is split over the sequence."""


@dataclass(frozen=True)
class NeuronPlan:
    """`batches`: rows of the decode graphs, ascending; the cache has the last. `dtype`: torch's name, of activations,
    cache and unquantized weights; `weights`: format of linear layers with a float32 scale for each row, or "". With
    `continuous_batching`, graphs of prompts have one row and rows of a batch differ in length.
    """

    config: ModelConfig
    heads: HeadPlan
    batches: tuple[int, ...]
    sequence_length: int
    buckets: Buckets
    dtype: str
    weights: str = ""
    continuous_batching: bool = False

    @property
    def tp(self) -> int:
        return self.heads.tp

    @property
    def batch(self) -> int:
        """Rows of the cache."""
        return self.batches[-1]

    @property
    def context_batches(self) -> tuple[int, ...]:
        """Rows of the graphs of prompts."""
        return (1,) if self.continuous_batching else self.batches

    @property
    def vocab_padded(self) -> int:
        """Rows of the head on all ranks."""
        return padded(self.config.vocab, self.tp)

    @property
    def ffn_padded(self) -> int:
        """Width of the dense mlp on all ranks."""
        return padded(self.config.ffn, self.tp)

    @property
    def hidden_padded(self) -> int:
        """Columns of embedding and position table on all ranks; the gathered states are cut to `config.hidden`."""
        return padded(self.config.hidden, self.tp)

    @property
    def expert_ranks(self) -> int:
        """Groups of ranks that experts are divided among; ranks of a group share the width of an expert."""
        return min(self.config.experts, self.tp) or 1

    @property
    def experts_per_rank(self) -> int:
        """Experts of one rank, whole or in part."""
        return self.config.experts // self.expert_ranks

    @property
    def moe_ffn_padded(self) -> int:
        """Width of an expert on all ranks of its group."""
        return padded(self.config.moe_ffn, self.tp // self.expert_ranks)

    @property
    def cache_positions(self) -> int:
        """Positions that one rank caches of a row."""
        shards = self.heads.sequence_shards
        more = FLASH_POSITIONS if shards > 1 else 0
        return -(-(self.sequence_length + more) // shards)

    @property
    def cache_shape(self) -> tuple[int, int, int, int]:
        """Shape of the keys, and of the values, of one layer on one rank: [positions, rows, kv heads, head_dim]."""
        rows = self.batch // self.heads.batch_shards
        return self.cache_positions, rows, self.heads.local_kv_heads, self.config.head_dim

    @property
    def cache_bytes(self) -> int:
        """Bytes of the KV cache of one rank."""
        return 2 * self.config.layers * prod(self.cache_shape) * ITEMSIZE[DTYPES[self.dtype]]


def neuron_plan(
    config: ModelConfig,
    tp: int,
    sequence_length: int,
    batches: Sequence[int] = (1,),
    dtype: str = "bfloat16",
    *,
    strategy: Strategy | None = None,
    over_sequence: bool = False,
    token_buckets: Sequence[int] | None = None,
    context_buckets: Sequence[int] | None = None,
    weights: str = "",
    continuous_batching: bool = False,
) -> NeuronPlan:
    """Plan of `config` on `tp` ranks. Raises RefusedError with the reason."""
    rows = tuple(sorted(set(batches)))
    if not rows or rows[0] < 1:
        raise RefusedError(f"batch sizes are at least 1; found {list(batches)}", hint="pass `--batch 1` or more")
    _check_experts(config, tp)
    # With continuous batching a prompt is a graph of one row, whose cache rows are not divided among ranks.
    every = (1, *rows) if continuous_batching else rows
    heads = head_plan(
        config.heads, config.kv_heads, config.head_dim, tp, every, strategy, over_sequence=over_sequence
    )  # fmt: skip
    buckets = buckets_of(sequence_length, token_buckets, context_buckets)
    return NeuronPlan(config, heads, rows, sequence_length, buckets, dtype, weights, continuous_batching)


def _check_experts(config: ModelConfig, tp: int) -> None:
    if config.experts and config.experts % tp and tp % config.experts:
        works = [n for n in range(1, 65) if config.experts % n == 0 or n % config.experts == 0]
        raise RefusedError(
            f"{config.experts} experts and tp {tp}: one must divide the other, so that ranks hold equal parts",
            hint=f"`--tp` is one of {', '.join(map(str, works))}",
        )
