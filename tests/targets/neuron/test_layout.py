"""Shards: every bit comes back from them, whatever the heads; the graphs' parameters are what they hold."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.errors import RefusedError
from compiler.model import lazy
from compiler.model.config import ModelConfig
from compiler.model.roles import TensorId, axis_sizes, model_tensors, shape_of
from compiler.targets.neuron.heads import STRATEGIES
from compiler.targets.neuron.layout import layouts, rank_plans, weight_plan
from compiler.targets.neuron.options import NeuronOptions
from compiler.targets.neuron.parameters import RANK, parameters
from compiler.targets.neuron.presharded import presharded, sharded_again
from tests.tiny import TINY, model_config, recipe_of

RECIPES = ("llama", "mistral", "mixtral", "qwen2", "gpt2", "gptj", "starcoder")
CASES = tuple(case for case in TINY if recipe_of(case) in RECIPES)


@cache
def case_config(case: str) -> ModelConfig:
    return model_config(case)


def canonical(config: ModelConfig) -> tuple[dict[TensorId, lazy.Lazy], dict[str, np.ndarray]]:
    """Tensors of a model, each of which has its own bits, none of them zero."""
    sizes, found, bits = axis_sizes(config), {}, {}
    generator = np.random.default_rng(0)
    for tensor in model_tensors(config):
        shape = shape_of(tensor, sizes)
        found[tensor] = lazy.whole(str(tensor), shape, "BF16")
        bits[str(tensor)] = generator.integers(1, 1 << 16, int(np.prod(shape)), np.uint16)
    return found, bits


@settings(max_examples=150, deadline=None)
@given(
    case=st.sampled_from(CASES),
    kv_heads=st.sampled_from([None, 1, 2, 4, 8]),
    group=st.sampled_from([1, 3, 4, 7]),
    tp=st.sampled_from([1, 2, 3, 4, 8, 16, 24]),
    strategy=st.sampled_from(["", *STRATEGIES]),
    over_sequence=st.booleans(),
    vocab=st.sampled_from([64, 97]),
    ffn=st.sampled_from([24, 50]),
)
def test_every_bit_comes_back_from_the_shards(
    case: str, kv_heads: int | None, group: int, tp: int, strategy: str, over_sequence: bool, vocab: int, ffn: int
) -> None:
    config = replace(case_config(case), layers=1, layer_kinds=case_config(case).layer_kinds[-1:], vocab=vocab)
    if kv_heads is not None:
        config = replace(config, kv_heads=kv_heads, heads=kv_heads * group, head_dim=8)
    config = replace(config, moe_ffn=ffn) if config.experts else replace(config, ffn=ffn)
    options = NeuronOptions(group_query_attention=strategy, shard_over_sequence=over_sequence)
    tensors, bits = canonical(config)
    try:
        plans = rank_plans(config, tp, tensors, "BF16", options)
    except RefusedError:
        return
    files = {f"{plan.file}:{name}": lazy.read(t, bits.__getitem__) for plan in plans for name, t in plan.tensors}
    wanted = [(one.name, one.shape, one.dtype) for one in parameters(weight_plan(config, tp, options))]
    for plan in plans:
        assert [(name, t.shape, t.dtype) for name, t in plan.tensors] == [one for one in wanted if one[0] != RANK]
    for layout in layouts(config, tp, options):
        names = [f"{plan.file}:{layout.name}" for plan in plans]
        back = layout.from_ranks([lazy.whole(name, files[name].shape, "BF16") for name in names])
        for tensor, one in back.items():
            found = lazy.read(one, lambda key: files[key].ravel())
            np.testing.assert_array_equal(found.ravel(), bits[str(tensor)], err_msg=layout.name)
        again = layout.to_ranks(back)
        for name, one in zip(names, again, strict=True):
            np.testing.assert_array_equal(lazy.read(one, lambda key: files[key].ravel()), files[name], err_msg=name)


@pytest.mark.parametrize("tp", [1, 2, 8, 24])
@pytest.mark.parametrize("case", ["llama", "mistral"])
def test_the_presharded_layout_of_transformers_neuronx_holds_the_same_bits(case: str, tp: int) -> None:
    config = case_config(case)
    tensors, bits = canonical(config)
    plans = rank_plans(config, tp, tensors, "BF16")
    files = presharded(config, plans)
    names = {file.file for file in files}
    assert names == {"DecoderLMHead.safetensors", *(f"decoder_layer_{i}.safetensors" for i in range(config.layers))}
    first = dict(next(file for file in files if file.file == "decoder_layer_0.safetensors").tensors)
    hidden, columns = config.hidden, weight_plan(config, tp, NeuronOptions()).heads.query_columns
    assert first["attn_q_weight*0"].shape == (hidden, columns)
    assert first[f"attn_out_weight*{tp - 1}"].shape == (hidden, columns)
    assert first["extra_parameter1*0"].shape == (0,)
    stored = {f"{file.file}:{name}": lazy.read(t, bits.__getitem__) for file in files for name, t in file.tensors}
    for plan, back in zip(plans, sharded_again(config, files, tp), strict=True):
        for (name, own), (same, one) in zip(plan.tensors, back.tensors, strict=True):
            assert name == same
            found = lazy.read(one, lambda key: stored[key].ravel())
            np.testing.assert_array_equal(found, lazy.read(own, bits.__getitem__), err_msg=name)


def test_other_models_have_no_presharded_layout() -> None:
    with pytest.raises(RefusedError, match="GPT2LMHeadModel"):
        presharded(case_config("gpt2"), ())
