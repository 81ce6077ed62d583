from __future__ import annotations

from dataclasses import replace

import pytest

import recipes
from compiler.errors import ParallelError, RefusedError
from compiler.model.parallel import check_parallel
from compiler.quantization.formats import load
from compiler.quantization.schemes import SCHEMES, check_scheme, fitted
from compiler.targets.inductor.schemes import GROUP_SIZES
from tests.published import CONFIGS
from tests.tiny import model_config


def test_names_are_their_keys() -> None:
    assert all(name == scheme.name for name, scheme in SCHEMES.items())


def test_schemes_with_a_search_or_static_activations_need_text() -> None:
    assert {name for name, scheme in SCHEMES.items() if scheme.calibrated} == {"smoothquant", "gptq", "awq"}
    assert replace(SCHEMES["fp8"], activation_scales="tensor").calibrated


def test_fewer_bits_may_cost_more() -> None:
    by_bits = sorted(SCHEMES.values(), key=lambda scheme: (-load(scheme.weights).bits, scheme.activations != "float"))
    costs = [scheme.tolerance.perplexity for scheme in by_bits]
    assert costs == sorted(costs)


def test_groups_must_divide_on_a_rank() -> None:
    config = replace(model_config("llama"), hidden=256, heads=8, head_dim=32, ffn=1024)
    check_scheme(SCHEMES["int4-weight"], config, tp=2)
    check_scheme(SCHEMES["int8-weight"], config, tp=8)
    with pytest.raises(RefusedError, match="attention width of a rank 32") as caught:
        check_scheme(SCHEMES["int4-weight"], config, tp=8)
    assert "int8-weight" in caught.value.hint
    with pytest.raises(RefusedError, match="groups of 128 or 64; found attention width of a rank 32") as caught:
        check_scheme(SCHEMES["int4-weight"], config, tp=8, sizes=(128, 64))
    assert "`--tp 4` divides" in caught.value.hint
    assert [fitted(SCHEMES["awq"], config, tp, (128, 64)).group for tp in (1, 2, 4, 8)] == [128, 128, 64, 128]
    assert fitted(SCHEMES["fp8"], config, 8, (128, 64)) == SCHEMES["fp8"]


def test_published_models_whose_widths_no_group_divides() -> None:
    """Two, at tp 8; both have groups at tp 4, and int8 at any tp."""
    refused = {}
    for name, hf in CONFIGS.items():
        config = recipes.for_config(hf)[1].resolve(hf).model_config(hf)
        for tp in (1, 2, 4, 8):
            try:
                check_parallel(config, tp)
            except ParallelError:
                continue
            try:
                check_scheme(fitted(SCHEMES["gptq"], config, tp, GROUP_SIZES), config, tp, GROUP_SIZES)
            except RefusedError as error:
                refused[name, tp] = error.hint.partition(";")[0]
    assert refused == dict.fromkeys([("gpt-oss-20b", 8), ("deepseek-v2-lite", 8)], "`--tp 4` divides")
