from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recipes
from compiler import targets
from compiler.decoder.forward import forward
from compiler.errors import NumericsError
from compiler.numerics.compare import THRESHOLDS, Figures, Thresholds, compare, judge, widened
from compiler.numerics.passages import token_rows
from compiler.numerics.proof import proof_of
from compiler.numerics.reference import reference_logits
from compiler.pipeline.plan import Plan, make_plan
from compiler.pipeline.request import Ask
from compiler.storage.checkpoints.checkpoint import Checkpoint, open_checkpoint
from tests.weights import rank_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = Figures(max_abs=0.1, mean_abs=0.01, cosine=1.0, top1_agreement=1.0, kl=0.0, kl_median=0.0)


def random(seed: int, rows: int = 16, vocab: int = 50) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, vocab)) * 3).astype(np.float32)


@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50))
def test_equal_distributions_are_no_distance_apart(seed: int, shift: float) -> None:
    """A constant added to all logits of a position is nothing to softmax."""
    logits = random(seed)
    figures = compare(logits, logits + np.float32(shift))
    assert figures.top1_agreement == 1.0
    assert figures.kl_median < 1e-9
    assert figures.cosine == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000))
def test_figures_are_those_of_torch(seed: int) -> None:
    """The formulas of the head of numerics.py, computed by another library."""
    reference, found = random(seed), random(seed + 1001)
    figures = compare(reference, found)
    r, a = torch.from_numpy(reference).double(), torch.from_numpy(found).double()
    divergence = torch.nn.functional.kl_div(a.log_softmax(-1), r.log_softmax(-1), reduction="none", log_target=True)
    assert figures.kl == pytest.approx(float(divergence.sum(-1).mean()), rel=6e-3)
    assert figures.kl_median == pytest.approx(float(np.median(divergence.sum(-1))), rel=6e-3)
    r, a = r - r.mean(-1, keepdim=True), a - a.mean(-1, keepdim=True)
    assert figures.cosine == pytest.approx(float(torch.cosine_similarity(r, a, dim=-1).mean()), abs=1e-5)
    assert figures.max_abs == pytest.approx(float((a - r).abs().max()), rel=6e-3)
    agreement = float((r.argmax(-1) == a.argmax(-1)).double().mean())
    assert figures.top1_agreement == pytest.approx(agreement, abs=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_fail(value: float) -> None:
    found = random(0)
    found[3, 4] = value
    with pytest.raises(NumericsError):
        judge(compare(random(0), found), THRESHOLDS["bfloat16"])


def test_another_shape_is_an_error_of_its_own() -> None:
    with pytest.raises(NumericsError, match=r"expected logits of shape \[16, 50\], the artifact gives \[16, 49\]"):
        compare(random(0), random(0)[:, :49])


@pytest.mark.parametrize("dtype", THRESHOLDS)
@pytest.mark.parametrize("field", [field.name for field in fields(Thresholds)])
def test_each_figure_beyond_its_threshold_is_named(dtype: str, field: str) -> None:
    judge(GOOD, THRESHOLDS[dtype])
    limit = getattr(THRESHOLDS[dtype], field)
    worse = limit - 0.01 if field in ("cosine", "top1_agreement") else limit * 1.1
    with pytest.raises(NumericsError, match=f"{field} .*, expected at"):
        judge(replace(GOOD, **{field: worse}), THRESHOLDS[dtype])


def test_two_positions_of_other_experts_do_not_fail() -> None:
    """What a router that is undecided between two experts does to bfloat16, and no more than that."""
    reference = random(0, rows=48)
    found = reference.copy()
    found[[7, 30]] = random(1, rows=2) * 0.4 + reference[[7, 30]] * 0.8
    figures = compare(reference, found)
    assert figures.kl > 10 * THRESHOLDS["float16"].kl_median
    judge(figures, THRESHOLDS["bfloat16"])


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def sample(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> tuple[Plan, Checkpoint]:
    checkpoint = open_checkpoint(tiny_checkpoint(request.param))
    name, recipe = recipes.for_config(checkpoint.config)
    target = targets.load("inductor")
    return make_plan(name, recipe, target, checkpoint.config, checkpoint.tensors, Ask()), checkpoint


MUTATIONS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "a norm doubled": (".norm.weight", lambda w: w * 2),
    "halves swapped": (".qkv.weight", lambda w: torch.cat(w.chunk(2)[::-1])),
    "rows turned": (".o.weight", lambda w: w.roll(16, 1)),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_bfloat16_passes_and_a_wrong_layout_of_one_layer_does_not(
    sample: tuple[Plan, Checkpoint], mutation: str
) -> None:
    plan, checkpoint = sample
    (ids, _), _ = token_rows(None, plan.config.vocab, proof_of(plan.config, plan.limits.max_positions))
    _, (expected,) = reference_logits(plan.config, plan.account.tensors, checkpoint, [ids])
    (weights,) = rank_weights(checkpoint.folder, 1, torch.bfloat16)

    def logits() -> np.ndarray:
        found: np.ndarray = forward(plan.config, weights, torch.from_numpy(ids)[None])[0].numpy()
        return found

    judge(compare(expected, logits()), THRESHOLDS["bfloat16"])
    suffix, change = MUTATIONS[mutation]
    name = next(name for name in weights if name.startswith("layers.1.attn") and name.endswith(suffix))
    weights[name] = change(weights[name])
    with pytest.raises(NumericsError):
        judge(compare(expected, logits()), THRESHOLDS["bfloat16"])


@given(kl=st.floats(0, 1), agreement=st.floats(0, 1), cosine=st.floats(-1, 1))
def test_limits_follow_a_measured_floor_and_are_never_stricter_than_without_it(
    kl: float, agreement: float, cosine: float
) -> None:
    own = THRESHOLDS["bfloat16"]
    assert widened(own, None) == own
    floor = Figures(1.0, 0.1, cosine, agreement, kl, kl / 2)
    limits = widened(own, floor)
    judge(floor, limits)  # a correct computation passes
    judge(Figures(1.0, 0.1, own.cosine, own.top1_agreement, own.kl, own.kl_median), limits)
    with pytest.raises(NumericsError, match="kl_median"):
        judge(replace(floor, kl_median=4 * max(kl / 2, own.kl_median)), limits)
