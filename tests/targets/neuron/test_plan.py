"""Plans: the table of transformers-neuronx' strategies, refusals with what works, buckets, degrees and memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.errors import RefusedError, UsageError
from compiler.lmi.instances import instance
from compiler.model.config import LayerKind, ModelConfig
from compiler.model.limits import Limits
from compiler.targets.neuron.buckets import Buckets, buckets_of
from compiler.targets.neuron.heads import STRATEGIES, HeadPlan, Strategy, head_plan
from compiler.targets.neuron.options import NeuronOptions
from compiler.targets.neuron.parameters import parameters
from compiler.targets.neuron.plan import neuron_plan
from compiler.targets.neuron.platforms import check_degree, platform_of
from compiler.targets.neuron.support import NeuronSupport

LLAMA_70B = ModelConfig(
    "LlamaForCausalLM", 80, 8192, 64, 8, 128, 28672, 32000, 1e-5, 4096, "bfloat16",
    rotary_dim=128, layer_kinds=(LayerKind("gated"),) * 80,
)  # fmt: skip
SUPPORT = NeuronSupport()


@dataclass(frozen=True)
class PlannedModel:
    config: ModelConfig
    tp: int
    dtype: str
    limits: Limits
    options: NeuronOptions
    digest: str


TABLE = """
llama2-7b  32/32 4 shard-over-heads 32 1 end  8 shard-over-heads 32 1 end  24 shard-over-heads 48 1 end
llama2-70b     64/8   4 shard-over-heads 64 1 none  8 shard-over-heads 64 1 none   24 replicated-heads 72 3 groups
llama3-8b       32/8   4 shard-over-heads 32 1 none   8 shard-over-heads 32 1 none   24 replicated-heads 48 3 groups
qwen2.5-7b      28/4   4 shard-over-heads 28 1 none   8 replicated-heads 32 2 groups 24 replicated-heads 48 6 groups
starcoder       48/1   4 replicated-heads 48 4 none   8 replicated-heads 48 8 none   24 replicated-heads 48 24 none
starcoder2-7b   36/4   4 shard-over-heads 36 1 none   8 replicated-heads 40 2 groups 24 replicated-heads 48 6 groups
"""
"""Defaults of transformers-neuronx: model, heads/kv heads; tp, strategy, padded heads, copies, place of padding."""


def cases() -> list[tuple[int, int, int, str, int, int, str]]:
    found = []
    for line in TABLE.strip().splitlines():
        _, counts, *cells = line.split()
        heads, kv_heads = map(int, counts.split("/"))
        for tp, strategy, total, copies, place in zip(*(iter(cells),) * 5, strict=True):
            found.append((heads, kv_heads, int(tp), strategy, int(total), int(copies), place))
    return found


@pytest.mark.parametrize(("heads", "kv_heads", "tp", "strategy", "total", "copies", "place"), cases())
def test_defaults_are_those_of_transformers_neuronx(
    heads: int, kv_heads: int, tp: int, strategy: str, total: int, copies: int, place: str
) -> None:
    plan = head_plan(heads, kv_heads, 128, tp)
    assert (plan.strategy, plan.padded_heads, plan.replication) == (strategy, total, copies)
    at_end = plan.queries == (*range(heads), *(None,) * (total - heads))
    assert at_end == (place != "groups")
    _check_slots(plan)


def _check_slots(plan: HeadPlan) -> None:
    """Every query head is in one slot, on a rank with its kv head."""
    assert sorted(head for head in plan.queries if head is not None) == list(range(plan.heads))
    assert {head for head in plan.keys if head is not None} == set(range(plan.kv_heads))
    assert plan.padded_heads % plan.tp == 0 or plan.batch_shards > 1
    of_slot = plan.local_heads // plan.local_kv_heads
    for slot, head in enumerate(plan.queries):
        if head is not None:
            assert plan.keys[slot // of_slot] == head // (plan.heads // plan.kv_heads)


@settings(max_examples=300, deadline=None)
@given(
    kv_heads=st.sampled_from([1, 2, 3, 4, 5, 8, 12, 32]),
    group=st.integers(1, 9),
    tp=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24, 32]),
    batch=st.sampled_from([1, 2, 8, 24]),
    strategy=st.sampled_from([None, *STRATEGIES]),
    over_sequence=st.booleans(),
)
def test_a_plan_is_consistent_or_refused_with_what_works(
    kv_heads: int, group: int, tp: int, batch: int, strategy: Strategy | None, over_sequence: bool
) -> None:
    def plan(wanted: Strategy | None) -> HeadPlan:
        return head_plan(kv_heads * group, kv_heads, 64, tp, (batch,), wanted, over_sequence=over_sequence)

    found, hint = None, ""
    try:
        found = plan(strategy)
    except RefusedError as refused:
        hint = refused.hint
    if found is None:
        assert hint
        assert not (strategy and strategy in hint)
    else:
        assert found.kv_columns * tp == (len(found.keys) if not found.split_columns else kv_heads) * 64
    for works in [found] if found else [plan(name) for name in STRATEGIES if name in hint]:
        _check_slots(works)


def test_an_impossible_strategy_is_refused_with_those_that_work() -> None:
    with pytest.raises(RefusedError) as found:
        head_plan(64, 8, 128, 24, strategy="shard-over-heads")
    assert "`shard-over-heads` cannot split 64 query heads and 8 kv heads over tp 24" in found.value.message
    assert found.value.hint == "`--group-query-attention` replicated-heads"
    with pytest.raises(RefusedError, match="a batch of 3 does not divide by 8"):
        head_plan(64, 8, 128, 8, (8, 3), "shard-over-batch")


def test_over_the_sequence_each_rank_caches_its_part_of_the_positions() -> None:
    plan = neuron_plan(LLAMA_70B, 32, 4096, (4,), over_sequence=True)
    assert plan.heads.sequence_shards == 4
    assert plan.cache_shape == ((4096 + 128) // 4, 4, 1, 128)
    assert plan.heads.kv_groups[:2] == ((0, 1, 2, 3), (4, 5, 6, 7))
    with pytest.raises(RefusedError, match="multiple of 8 kv heads"):
        neuron_plan(LLAMA_70B, 8, 4096, over_sequence=True)


def test_caches_have_the_rows_and_heads_of_their_strategy() -> None:
    shapes = {
        name: neuron_plan(LLAMA_70B, 8, 2048, (8,), strategy=name).cache_shape
        for name in STRATEGIES
    }  # fmt: skip
    assert shapes["shard-over-heads"] == (2048, 8, 1, 128)
    assert shapes["shard-over-batch"] == (2048, 1, 8, 128)
    assert shapes["all-gather-heads"] == (2048, 8, 1, 128)
    assert shapes["replicated-heads"] == (2048, 8, 1, 128)


def test_a_plan_of_70b_takes_less_than_a_second() -> None:
    begun = time.perf_counter()
    plan = neuron_plan(LLAMA_70B, 24, 4096, (4,))
    count = len(parameters(plan))
    assert time.perf_counter() - begun < 1
    assert count == 80 * 9 + 3
    assert (plan.vocab_padded, plan.ffn_padded, plan.hidden_padded) == (32016, 28680, 8208)


def test_buckets_double_up_to_the_sequence_length() -> None:
    assert buckets_of(2048) == Buckets((64, 128, 256, 512, 1024), (128, 256, 512, 1024, 2048))
    assert buckets_of(1000).token == (128, 256, 512, 1000)
    assert buckets_of(64) == Buckets((32,), (64,))
    assert buckets_of(1000, (1000, 10), (0,)) == Buckets((), (10, 1000))
    assert buckets_of(1000, context=(512, 32)).context == (32, 512)
    with pytest.raises(RefusedError, match="`--buckets` are 1 to 1000"):
        buckets_of(1000, (2000, 1000))
    with pytest.raises(RefusedError, match="the largest of `--buckets` is the sequence length, 1000"):
        buckets_of(1000, (512,))


def test_batch_sizes_are_those_of_decode_and_prompts() -> None:
    plan = neuron_plan(LLAMA_70B, 8, 512, (4, 1, 2))
    assert (plan.batches, plan.context_batches, plan.batch) == ((1, 2, 4), (1, 2, 4), 4)
    assert neuron_plan(LLAMA_70B, 8, 512, (4,), continuous_batching=True).context_batches == (1,)
    limits, options = Limits(512, 4), NeuronOptions(batch_sizes="1,8")
    with pytest.raises(RefusedError, match="`--batch-sizes` are 1 to 4"):
        SUPPORT.check(LLAMA_70B, 8, options, limits)


def test_degrees_are_those_of_the_instances_runtime() -> None:
    check_degree(24, "ml.inf2.48xlarge")
    for tp, name, hint in ((4, "ml.trn1.32xlarge", "1, 2, 8, 32"), (16, "ml.inf2.24xlarge", "1, 2, 4, 8 on")):
        with pytest.raises(RefusedError, match=f"no collectives for tp {tp}") as found:
            check_degree(tp, name)
        assert f"`--tp` is one of {hint}" in found.value.hint
    with pytest.raises(RefusedError, match="has NVIDIA A10G"):
        platform_of("ml.g5.xlarge")
    with pytest.raises(RefusedError, match="inf1"):
        platform_of("ml.inf1.xlarge")


def test_where_a_model_does_not_fit_the_hint_has_what_does() -> None:
    plan = PlannedModel(LLAMA_70B, 8, "bfloat16", Limits(4096, 4), NeuronOptions(instance="ml.inf2.48xlarge"), "")
    hint = SUPPORT.fitting(plan, instance("ml.inf2.48xlarge"))
    assert hint == (
        "ml.inf2.48xlarge has room for `--tp 24`, `--tp 8` with `--quant int8-weight`, "
        "`--tp 24` with `--quant int8-weight`"
    )
    assert "ml.inf2.48xlarge" in SUPPORT.fitting(plan, instance("ml.inf2.xlarge"))


def test_options_are_checked_by_name() -> None:
    with pytest.raises(UsageError, match="`--group-query-attention` is one of shard-over-heads"):
        SUPPORT.check(LLAMA_70B, 8, NeuronOptions(group_query_attention="heads"), Limits(512, 1))
    with pytest.raises(UsageError, match="`--buckets` is a list of numbers; found `a,b`"):
        SUPPORT.check(LLAMA_70B, 8, NeuronOptions(buckets="a,b"), Limits(512, 1))
    other = replace(LLAMA_70B, architecture="BloomForCausalLM")
    with pytest.raises(RefusedError, match="does not support BloomForCausalLM: this target has no row for it"):
        SUPPORT.check(other, 8, NeuronOptions())


def test_experts_are_whole_on_a_rank_or_shared_by_a_group() -> None:
    mixtral = replace(LLAMA_70B, architecture="MixtralForCausalLM", experts=8, experts_per_token=2, moe_ffn=14336,
                      ffn=0, layer_kinds=(LayerKind("moe"),) * 80)  # fmt: skip
    whole, half = neuron_plan(mixtral, 4, 512), neuron_plan(mixtral, 16, 512)
    assert (whole.experts_per_rank, whole.moe_ffn_padded) == (2, 14336)
    shapes = {one.name: one.shape for one in parameters(half)}
    assert shapes["layers.0.moe.gate.weight"] == (1, 7168, 8192)
    assert shapes["layers.0.moe.down.weight"] == (1, 8192, 7168)
    with pytest.raises(RefusedError, match="9 experts and tp 24"):
        neuron_plan(replace(mixtral, experts=9), 24, 512)
