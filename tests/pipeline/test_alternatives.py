"""Sizes of the quantized rank files of published models, by scheme."""

from __future__ import annotations

from dataclasses import replace

import pytest

import recipes
from compiler import targets
from compiler.cli.text import option_text
from compiler.errors import RefusedError
from compiler.pipeline.alternatives import alternatives
from compiler.pipeline.estimate import Rates, calibration_seconds, stage_seconds
from compiler.pipeline.plan import Plan, make_plan
from compiler.pipeline.request import Ask
from compiler.quantization.request import Quant, Text, scheme_of
from compiler.quantization.schemes import SCHEMES
from compiler.targets.trtllm.options import TrtllmOptions
from tests import published

INDUCTOR = targets.load("inductor")


def _plan(model: str, quant: Quant, tp: int = 8) -> Plan:
    hf = published.CONFIGS[model]
    name, recipe = recipes.for_config(hf)
    return make_plan(name, recipe, INDUCTOR, hf, published.headers(model), Ask(tp=tp, quant=quant))


@pytest.mark.parametrize("model", ["llama2-70b", "mixtral-8x7b"])
def test_every_choice_has_bytes_or_a_reason(model: str) -> None:
    plan = _plan(model, Quant())
    found = {option_text(one.quant): one for one in alternatives(plan, INDUCTOR)}
    assert set(found) == {"--quant none", *(f"--quant {name}" for name in SCHEMES), "--kv-cache int8", "--kv-cache fp8"}
    assert all((one.weights is None) == bool(one.refused) for one in found.values())
    assert found["--quant none"].weights == plan.ranks[0].nbytes
    assert found["--quant none"].cache == plan.kv_bytes_per_token
    weights = found["--quant int8-weight"].weights
    assert weights is not None
    assert 0.5 < weights / plan.ranks[0].nbytes < 0.52  # half, and the scales and the embedding


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_a_quantized_cache_holds_twice_the_tokens(form: str) -> None:
    plan, asked = _plan("llama3-8b", Quant()), _plan("llama3-8b", Quant(cache=form))
    found = {option_text(one.quant): one for one in alternatives(plan, INDUCTOR)}
    one, plain = found[f"--kv-cache {form}"], found["--quant none"]
    assert (one.weights, one.cache) == (asked.ranks[0].nbytes, asked.kv_bytes_per_token)
    assert one.cache_tokens_in_a_gib == 2 * (plain.cache_tokens_in_a_gib or 0)
    runs = {need.stage: need.memory for need in asked.needs}["run"]
    assert runs == asked.ranks[0].nbytes + asked.kv_bytes_at_limits
    scales = 2 * 4 * plan.heads.kv_heads * plan.config.layers
    assert asked.ranks[0].nbytes == plan.ranks[0].nbytes + scales


def test_alternatives_do_not_depend_on_the_requested_scheme() -> None:
    plan = _plan("llama3-8b", Quant(SCHEMES["smoothquant"]))
    found = {option_text(one.quant): one.weights for one in alternatives(plan, INDUCTOR)}
    assert found["--quant smoothquant"] == plan.ranks[0].nbytes
    assert alternatives(plan, INDUCTOR) == alternatives(_plan("llama3-8b", Quant()), INDUCTOR)


@pytest.mark.parametrize(("scheme", "pp"), [("none", 4), ("smoothquant", 1), ("fp8", 2), ("awq", 4)])
def test_pipeline_stages_are_told_from_few_layers_too(scheme: str, pp: int) -> None:
    hf, trtllm = published.CONFIGS["llama3-8b"], targets.load("trtllm")
    ask = Ask(tp=2, quant=Quant(SCHEMES.get(scheme)), options=TrtllmOptions(pp=pp))
    plan = make_plan(*recipes.for_config(hf), trtllm, hf, published.headers("llama3-8b"), ask)
    found = {option_text(one.quant): one.weights for one in alternatives(plan, trtllm)}
    assert found[f"--quant {scheme}"] == max(rank.nbytes for rank in plan.ranks)


def test_the_digest_of_a_plan_covers_what_decides_bytes_and_nothing_else() -> None:
    smooth = Quant(SCHEMES["smoothquant"], text=Text(digest="sha256:1"))
    same = [replace(smooth, accept=True), replace(smooth, max_perplexity_increase=0.5)]
    others = [
        Quant(),
        Quant(SCHEMES["int8-weight"]),
        replace(smooth, alpha=0.7),
        replace(smooth, alpha=None),
        replace(smooth, text=Text(digest="sha256:2")),
        replace(smooth, text=replace(smooth.text, samples=3)),
        replace(smooth, scheme=scheme_of("smoothquant", per_channel=False)),
    ]
    digest = _plan("qwen2-0.5b", smooth, tp=2).digest
    assert {_plan("qwen2-0.5b", one, tp=2).digest for one in same} == {digest}
    assert len({digest, *(_plan("qwen2-0.5b", one, tp=2).digest for one in others)}) == len(others) + 1


def test_a_text_does_not_decide_what_is_not_calibrated() -> None:
    weights = Quant(SCHEMES["int8-weight"])
    assert (
        replace(weights, text=Text(digest="sha256:2")).decides == weights.decides == replace(weights, alpha=0.1).decides
    )


def test_requested_groups_that_do_not_divide_are_refused_in_the_plan() -> None:
    assert _plan("qwen2-0.5b", Quant(SCHEMES["int4-weight"]), tp=2).quant.group_size == 64
    with pytest.raises(RefusedError, match="int4-weight"):
        _plan("qwen2-0.5b", Quant(SCHEMES["int4-weight"], group=128), tp=2)


def test_time_to_calibrate_is_that_of_the_products() -> None:
    config = _plan("llama2-70b", Quant()).config
    assert calibration_seconds(config, 262_144, 512, 2e12) == pytest.approx(2 * 69e9 * 262_144 / 1e12, rel=0.03)
    moe = _plan("mixtral-8x7b", Quant()).config
    assert calibration_seconds(moe, 1000, 512, 2e12) == pytest.approx(
        2 * 12.7e9 * 1000 / 1e12, rel=0.05
    )  # two of eight experts


def test_every_stage_of_this_program_has_a_time_that_follows_its_work() -> None:
    rates = Rates(products=1e12, copies=1e10, proof=1e12)
    quick, standard, full = (
        stage_seconds(_plan("llama2-70b", Quant(SCHEMES["smoothquant"], proof=proof), tp=8), rates)
        for proof in ("quick", "standard", "full")
    )
    assert standard.keys() == {"calibrate", "convert", "gate", "reference"}
    assert quick["gate"] < standard["gate"] < full["gate"]
    # 2,048 tokens on both sides and 512 on the files and their scheme, at half of the rate; the weights four times.
    weights = 2 * 69e9
    assert standard["gate"] == pytest.approx(2 * 69e9 * (2 * 2048 + 2 * 512) / 0.5e12 + 4 * weights / 1e10, rel=0.05)
    assert standard["reference"] < standard["gate"] / 4
