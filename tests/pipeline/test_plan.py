"""Plans of published models, from config.json and headers alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import make_dataclass
from functools import partial
from math import prod
from typing import Any

import pytest

import recipes
from compiler import targets
from compiler.cli.text import plan_text
from compiler.errors import ParallelError, RefusedError
from compiler.model.config import ModelConfig
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import ITEMSIZE
from compiler.model.rope_option import parse_rope_scaling
from compiler.pipeline.plan import Plan, make_plan
from compiler.pipeline.request import Ask
from compiler.quantization.request import Quant, Text
from compiler.quantization.schemes import SCHEMES
from tests import published
from tests.published_shapes import SHAPES


def _plan(model: str, ask: Ask | None = None, **config: Any) -> Plan:
    hf = published.CONFIGS[model] | config
    name, recipe = recipes.for_config(hf)
    return make_plan(name, recipe, targets.load("inductor"), hf, published.headers(model), ask or Ask())


@pytest.mark.parametrize("model", published.CONFIGS)
def test_every_parameter_of_a_published_model_is_planned_once(model: str) -> None:
    plan = _plan(model)
    assert published.parameters(model) == published.PARAMETERS[model]
    assert sum(prod(tensor.shape) for _, tensor in plan.ranks[0].tensors) == published.PARAMETERS[model]
    kept = sum(prod(tensor.shape) for _, tensor in plan.ranks[0].tensors if tensor.dtype == "F32")
    wider = kept * (4 - ITEMSIZE[DTYPES[plan.dtype]])  # corrections of a choice keep their dtype
    assert plan.ranks[0].nbytes == ITEMSIZE[DTYPES[plan.dtype]] * published.PARAMETERS[model] + wider


@pytest.mark.parametrize(("model", "tp"), [("llama2-70b", 8), ("mixtral-8x7b", 8), ("qwen2-7b", 4)])
def test_split_axes_are_divided_and_the_rest_is_whole(model: str, tp: int) -> None:
    whole, split = _plan(model), _plan(model, Ask(tp=tp))
    hidden = whole.config.hidden
    assert len({rank.nbytes for rank in split.ranks}) == 1
    for (name, one), (_, all_) in zip(split.ranks[0].tensors, whole.ranks[0].tensors, strict=True):
        if one.shape == (hidden,) or "router" in name:
            assert one.shape == all_.shape, name
        else:
            assert prod(one.shape) * tp == prod(all_.shape), name


def test_every_rank_caches_the_whole_latent() -> None:
    hf = published.CONFIGS["deepseek-v3"] | {
        "num_hidden_layers": 4, "n_routed_experts": 16, "n_group": 2, "topk_group": 1
    }  # fmt: skip
    headers = {k: published.Tensor("BF16", shape) for k, shape in SHAPES["DeepseekV3ForCausalLM"](hf).items()}
    headers["model.layers.4.eh_proj.weight"] = published.Tensor("BF16", (7168, 14336))  # of the layer behind the last
    name, recipe = recipes.for_config(hf)
    for tp in (1, 8):
        plan = make_plan(name, recipe, targets.load("inductor"), hf, headers, Ask(tp=tp))
        assert plan.kv_bytes_per_token == 4 * (512 + 64) * 2
        assert plan.account.ignored == ("model.layers.4.eh_proj.weight",)
        assert "every rank caches the latent of all heads, 576 elements a token" in plan_text(plan)
    with pytest.raises(RefusedError, match="does not quantize the cache of latent attention"):
        make_plan(name, recipe, targets.load("inductor"), hf, headers, Ask(quant=Quant(cache="int8")))


def test_seventy_billion_parameters_at_tp_8() -> None:
    plan = _plan("llama2-70b", Ask(tp=8))
    shapes = {name: tensor.shape for name, tensor in plan.ranks[7].tensors}
    assert shapes["layers.79.attn.qkv.weight"] == (1024 + 128 + 128, 8192)
    assert shapes["layers.79.attn.o.weight"] == (8192, 1024)
    assert shapes["layers.79.mlp.gate_up.weight"] == (2 * 3584, 8192)
    assert shapes["head.weight"] == (4000, 8192)
    assert (plan.heads.heads, plan.heads.kv_heads, plan.heads.kv_copies) == (8, 1, 1)
    assert plan.kv_bytes_per_token == 80 * 2 * 128 * 2


def test_a_kv_head_on_several_ranks_is_counted() -> None:
    plan = _plan("tinyllama", Ask(tp=8))
    assert (plan.heads.kv_heads, plan.heads.kv_copies) == (1, 2)


def test_a_tp_that_does_not_divide_names_those_that_do() -> None:
    with pytest.raises(ParallelError, match="28 query heads and 4 kv heads") as caught:
        _plan("qwen2-7b", Ask(tp=8))
    assert caught.value.hint == "`--tp` is one of 1, 2, 4 for this model."


def test_linear_scaling_asked_for_doubles_the_positions_and_the_cache() -> None:
    plain = _plan("llama2-70b", Ask(tp=8))
    stretched = _plan("llama2-70b", Ask(tp=8, rope_scaling=parse_rope_scaling("linear:2")))
    assert stretched.limits.max_positions == 2 * plain.limits.max_positions
    assert stretched.kv_bytes_at_limits == 2 * plain.kv_bytes_at_limits


def test_scaling_against_that_of_the_checkpoint_is_refused() -> None:
    with pytest.raises(RefusedError, match="trained with rope scaling llama3:8"):
        _plan("llama3.1-70b", Ask(rope_scaling=parse_rope_scaling("linear:2")))


@pytest.mark.parametrize("ask", [Ask(max_positions=1), Ask(max_positions=4097), Ask(max_batch=0), Ask(dtype="int3")])
def test_limits_and_dtypes_out_of_range_are_refused(ask: Ask) -> None:
    with pytest.raises(RefusedError):
        _plan("llama2-70b", ask)


def test_the_digest_covers_what_decides_the_bytes_of_the_files_and_nothing_else() -> None:
    plain = _plan("tinyllama")
    assert _plan("tinyllama").digest == plain.digest
    assert _plan("tinyllama", Ask(max_batch=2)).digest == plain.digest
    other = [_plan("tinyllama", Ask(tp=2)), _plan("tinyllama", Ask(dtype="float32")), _plan("llama3-8b")]
    assert len({plan.digest for plan in [plain, *other]}) == 4


GOLDEN = {
    ("tinyllama", "inductor", ""): "sha256:ed0c66e4ca96b6904db93b624b409654596747da2cb68cecf160af1bc121f744",
    ("tinyllama", "inductor", "smoothquant"): "sha256:5039bf60c847840c5ba1ad6263025d0a7a177d8cf397dd4d1d1b622683259b8b",
    ("tinyllama", "trtllm", ""): "sha256:2d5dc9258dc48dcd84a5737751a44197ce1516c7a4b041ac68a0167d02282b75",
    ("tinyllama", "trtllm", "smoothquant"): "sha256:2095851d96e5f501a324f5ecf1492afd17f446d6300504aad2484c336e869712",
    ("mixtral-8x7b", "inductor", ""): "sha256:2c77a10f079c846601e9f1214b77018af292a49f7b28aadc27612fb2f0dd8965",
    (
        "mixtral-8x7b",
        "inductor",
        "int8-weight",
    ): "sha256:d4606f7015378857ee715c2ec5c6fa67fb9e4f1c5e551c8a2c26f4147aad6d64",
    ("mixtral-8x7b", "trtllm", ""): "sha256:0e8de9fa9446e13f1e837d0c04b3b13013004f2f10d5611d62294c5e43cc599d",
    (
        "mixtral-8x7b",
        "trtllm",
        "int8-weight",
    ): "sha256:bf0865a6181954801b881cb1bad5bdf490d78ddc7036d51afbd35de7e6b2db57",
    ("gpt2", "inductor", ""): "sha256:82cea79f799474430780f5ee542b5531361aca06fd1af6664802cb3fe0348473",
    ("gpt2", "trtllm", ""): "sha256:5af92bfd7339a508672adf5d6f9728e99154d479fb611be71cb2fc1a0ea61cea",
}


def _golden(model: str, target: str, scheme: str) -> str:
    hf = published.CONFIGS[model]
    name, recipe = recipes.for_config(hf)
    text = Text(digest="sha256:" + 64 * "0")
    ask = Ask(tp=2, quant=Quant(SCHEMES[scheme], text=text) if scheme else Quant())
    return make_plan(name, recipe, targets.load(target), hf, published.headers(model), ask).digest


@pytest.mark.parametrize(("model", "target", "scheme"), GOLDEN)
def test_the_digest_of_a_plan_is_the_same_in_every_version(model: str, target: str, scheme: str) -> None:
    """A change here breaks `verify --model` of artifacts that are published, and empties every cache."""
    assert _golden(model, target, scheme) == GOLDEN[model, target, scheme]


@pytest.mark.parametrize(("model", "target", "scheme"), GOLDEN)
def test_a_new_field_of_the_config_changes_no_digest(
    model: str, target: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    field: list[Any] = [("future_scale", float, 1.0)]
    grown = make_dataclass("ModelConfig", field, bases=(ModelConfig,), frozen=True)
    monkeypatch.setattr("compiler.model.read.ModelConfig", grown)
    assert _golden(model, target, scheme) == GOLDEN[model, target, scheme]
    monkeypatch.setattr("compiler.model.read.ModelConfig", partial(grown, future_scale=0.5))
    assert _golden(model, target, scheme) != GOLDEN[model, target, scheme]


def test_json_has_every_tensor_and_survives_a_round_trip() -> None:
    plan = _plan("mixtral-8x7b", Ask(tp=8))
    data = json.loads(json.dumps(plan.to_json()))
    assert len(data["tensors"]) == len(plan.ranks[0].tensors)
    assert data["ranks"][3]["bytes"] == plan.ranks[3].nbytes
    assert type(plan.config).from_json(data["config"]) == plan.config


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from tests.pipeline.test_plan import _plan; _plan('llama2-70b');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_quantized_plan_says_what_the_gate_takes() -> None:
    plain = {need.stage for need in _plan("llama2-70b").needs}
    needs = {need.stage: need for need in _plan("llama2-70b", Ask(tp=8, quant=Quant(SCHEMES["int8-weight"]))).needs}
    assert needs.keys() == plain | {"gate"}
    layer = 2 * 8192 * 8192 + 2 * 1024 * 8192 + 3 * 8192 * 28672 + 2 * 8192
    both, states = (2 + 4) * layer, 2 * 4 * 8192 * 8192  # stored and in float32; x of both sides over 8192 tokens
    assert needs["gate"].memory == both + states + needs["convert"].memory
