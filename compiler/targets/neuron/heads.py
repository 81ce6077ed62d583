"""Attention heads of each rank: the strategies of transformers-neuronx for grouped-query attention.

| strategy         | q, k, v of a rank                      | KV cache of a rank    | collectives, besides o's sum |
|------------------|----------------------------------------|-----------------------|------------------------------|
| shard-over-heads | whole heads                            | its kv heads          | none                         |
| replicated-heads | whole heads, kv heads on several ranks | its copies            | none                         |
| shard-over-batch | equal columns, parts of heads          | all, batch / tp rows  | all-to-all of q, k, v and of |
|                  |                                        |                       | the output                   |
| all-gather-heads | whole heads of q, columns of k and v   | those of its group    | all-gather of k, v in groups |

With a cache that is split over the sequence, ranks with copies of a kv head cache equal parts of the positions. Ranks
hold slots in order: rank r has slots r * n ... (r + 1) * n of q, and of k and v. An empty slot has zero weights; the
columns of the output projection for it are zero, too.

Source: `constants.py`, `decoder.py` (Decoder, maybe_shard_over_heads ...) and `utils.py` of transformers-neuronx
0.13 (commit 1ade6d7, December 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from compiler.errors import RefusedError
from compiler.model.parallel import padded

Strategy = Literal["shard-over-heads", "replicated-heads", "shard-over-batch", "all-gather-heads"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
"""Names of the strategies, by transformers-neuronx; the first two are tried in this order where none is named."""
Slots = tuple[int | None, ...]
"""Head of the model in each slot of all ranks; None: an empty slot."""


@dataclass(frozen=True)
class HeadPlan:
    """Heads of all ranks. `heads`, `kv_heads`: of the model. `queries`: heads in the slots of q and of o's columns.
    `keys`: kv heads in the slots of attention, after collectives; with shard-over-batch every rank has all.
    `sequence_shards`: ranks that cache parts of one kv head's positions; 1: none.
    """

    strategy: Strategy
    tp: int
    heads: int
    kv_heads: int
    head_dim: int
    queries: Slots
    keys: Slots
    sequence_shards: int = 1

    @property
    def split_columns(self) -> bool:
        """Whether a rank's k and v weights are columns without regard to heads."""
        return self.strategy in ("shard-over-batch", "all-gather-heads")

    @property
    def batch_shards(self) -> int:
        """Ranks that the rows of the cache are divided among."""
        return self.tp if self.strategy == "shard-over-batch" else 1

    @property
    def padded_heads(self) -> int:
        """Query heads of all ranks, empty ones included."""
        return len(self.queries)

    @property
    def replication(self) -> int:
        """Copies of a kv head among the slots of attention."""
        return sum(1 for head in self.keys if head == 0)

    @property
    def query_columns(self) -> int:
        """Output features of q on one rank, and input features of the output projection."""
        return len(self.queries) * self.head_dim // self.tp

    @property
    def kv_columns(self) -> int:
        """Output features of k, and of v, on one rank, before collectives."""
        count = self.kv_heads if self.split_columns else len(self.keys)
        return count * self.head_dim // self.tp

    @property
    def local_heads(self) -> int:
        """Query heads that attention of one rank computes, after collectives."""
        return len(self.queries) // (1 if self.batch_shards > 1 else self.tp)

    @property
    def local_kv_heads(self) -> int:
        """Kv heads that one rank caches, after collectives."""
        return len(self.keys) // (1 if self.batch_shards > 1 else self.tp)

    @property
    def kv_groups(self) -> tuple[tuple[int, ...], ...]:
        """Neighboring ranks that gather k and v, or whose caches are parts of one sequence; () for none."""
        size = self.tp // self.kv_heads if self.strategy == "all-gather-heads" else self.sequence_shards
        if size <= 1:
            return ()
        return tuple(tuple(range(first, first + size)) for first in range(0, self.tp, size))


class _ImpossibleError(Exception):
    """A strategy cannot split these heads; the text says why."""


def head_plan(
    heads: int,
    kv_heads: int,
    head_dim: int,
    tp: int,
    batches: Sequence[int] = (1,),
    strategy: Strategy | None = None,
    *,
    over_sequence: bool = False,
) -> HeadPlan:
    """Heads of `tp` ranks. `batches`: rows of each graph. `strategy` None: shard-over-heads, then replicated-heads.

    Raises RefusedError for a strategy that cannot split the heads; its hint has those that can.
    """
    if tp < 1 or heads % kv_heads:
        raise RefusedError(
            f"{heads} query heads, {kv_heads} kv heads and tp {tp}: expected whole groups of query heads and tp >= 1",
            hint="check config.json, and `--tp`",
        )
    every = tuple(batches)

    def attempt(name: Strategy) -> HeadPlan:
        if over_sequence:
            return _over_sequence(name, heads, kv_heads, head_dim, tp)
        return _BY_NAME[name](heads, kv_heads, head_dim, tp, every)

    works, reasons = dict[Strategy, HeadPlan](), dict[Strategy, str]()
    for name in STRATEGIES:
        try:
            works[name] = attempt(name)
        except _ImpossibleError as error:
            reasons[name] = str(error)
    wanted = next((name for name in STRATEGIES[:2] if name in works), None) if strategy is None else strategy
    if wanted in works:
        return works[wanted]
    reason = reasons[wanted or "replicated-heads"]
    raise RefusedError(
        f"`{wanted or 'replicated-heads'}` cannot split {heads} query heads and {kv_heads} kv heads over tp {tp}: "
        f"{reason}",
        hint=f"`--group-query-attention` {' or '.join(works)}" if works else "choose another `--tp`",
    )


def _shard_over_heads(heads: int, kv_heads: int, head_dim: int, tp: int, _batches: Sequence[int]) -> HeadPlan:
    if heads == kv_heads:
        slots = _at_end(range(heads), padded(heads, tp))
        return HeadPlan("shard-over-heads", tp, heads, kv_heads, head_dim, slots, slots)
    if kv_heads % tp:
        raise _ImpossibleError(f"{kv_heads} kv heads do not divide by {tp}")
    return HeadPlan(
        "shard-over-heads", tp, heads, kv_heads, head_dim, tuple(range(heads)), tuple(range(kv_heads))
    )  # fmt: skip


def _replicated(heads: int, kv_heads: int, head_dim: int, tp: int, _batches: Sequence[int]) -> HeadPlan:
    total, copies = padded(heads, tp), _copies(heads, kv_heads, tp)
    keys = [head for head in range(kv_heads) for _ in range(copies)]
    count = total if len(keys) == heads else max(len(keys), tp)
    grouped = tp % kv_heads == 0 and (total - heads) % kv_heads == 0
    queries = _in_groups(heads, kv_heads, total) if grouped else _at_end(range(heads), total)
    plan = HeadPlan("replicated-heads", tp, heads, kv_heads, head_dim, queries, _at_end(keys, count))
    _check_local(plan)
    return plan


def _copies(heads: int, kv_heads: int, tp: int) -> int:
    """Copies of each kv head: as many as ranks share it where groups of ranks can, else one for each query head."""
    total, group = padded(heads, tp), heads // kv_heads
    if kv_heads < tp and tp % kv_heads == 0 and (total - heads) % kv_heads == 0:
        return tp // kv_heads
    return 1 if total // tp == group else group


def _over_batch(heads: int, kv_heads: int, head_dim: int, tp: int, batches: Sequence[int]) -> HeadPlan:
    if wrong := [batch for batch in batches if batch % tp]:
        raise _ImpossibleError(f"a batch of {wrong[0]} does not divide by {tp}")
    if columns := [count * head_dim for count in (heads, kv_heads) if count * head_dim % tp]:
        raise _ImpossibleError(f"{columns[0]} columns do not divide by {tp}")
    return HeadPlan(
        "shard-over-batch", tp, heads, kv_heads, head_dim, tuple(range(heads)), tuple(range(kv_heads))
    )  # fmt: skip


def _all_gather(heads: int, kv_heads: int, head_dim: int, tp: int, _batches: Sequence[int]) -> HeadPlan:
    total = padded(heads, tp)
    if kv_heads * head_dim % tp:
        raise _ImpossibleError(f"{kv_heads * head_dim} columns of k do not divide by {tp}")
    if kv_heads % tp and tp % kv_heads:
        raise _ImpossibleError(f"{kv_heads} kv heads and {tp} ranks form no equal groups")
    if (total - heads) % kv_heads:
        raise _ImpossibleError(f"{total - heads} empty heads do not divide among {kv_heads} kv heads")
    keys = tuple(head for head in range(kv_heads) for _ in range(max(tp // kv_heads, 1)))
    queries = _in_groups(heads, kv_heads, total)
    plan = HeadPlan("all-gather-heads", tp, heads, kv_heads, head_dim, queries, keys)
    _check_local(plan)
    return plan


def _over_sequence(name: Strategy, heads: int, kv_heads: int, head_dim: int, tp: int) -> HeadPlan:
    if name != "replicated-heads":
        raise _ImpossibleError("a cache split over the sequence needs copies of whole kv heads")
    total = padded(heads, tp)
    if tp % kv_heads or tp == kv_heads:
        raise _ImpossibleError(f"a cache split over the sequence needs tp to be a multiple of {kv_heads} kv heads")
    if (total - heads) % kv_heads:
        raise _ImpossibleError(f"{total - heads} empty heads do not divide among {kv_heads} kv heads")
    shards = tp // kv_heads
    keys = tuple(head for head in range(kv_heads) for _ in range(shards))
    return HeadPlan(name, tp, heads, kv_heads, head_dim, _in_groups(heads, kv_heads, total), keys, shards)


_BY_NAME: dict[Strategy, Callable[[int, int, int, int, Sequence[int]], HeadPlan]] = {
    "shard-over-heads": _shard_over_heads,
    "replicated-heads": _replicated,
    "shard-over-batch": _over_batch,
    "all-gather-heads": _all_gather,
}


def _at_end(found: Sequence[int], count: int) -> Slots:
    """Heads, then empty slots up to `count`."""
    return (*found, *(None for _ in range(count - len(found))))


def _in_groups(heads: int, kv_heads: int, total: int) -> Slots:
    """Query heads of each kv head, then the empty slots of its group."""
    group, slots = heads // kv_heads, total // kv_heads
    return tuple(kv * group + i if i < group else None for kv in range(kv_heads) for i in range(slots))


def _check_local(plan: HeadPlan) -> None:
    """Check that each rank has the kv head of every query head. Raises _ImpossibleError."""
    if len(plan.keys) % plan.tp or plan.local_heads % plan.local_kv_heads:
        raise _ImpossibleError(f"{len(plan.queries)} query slots and {len(plan.keys)} kv slots form no equal groups")
    group, of_slot = plan.heads // plan.kv_heads, plan.local_heads // plan.local_kv_heads
    for slot, head in enumerate(plan.queries):
        if head is not None and plan.keys[slot // of_slot] != head // group:
            raise _ImpossibleError(f"query head {head} and its kv head {head // group} are on different ranks")
