"""Bytes that a decode step reads, against the bytes of the rank files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import recipes
from compiler.decoder.traffic import step_bytes
from compiler.pipeline.located import plan_of
from compiler.pipeline.request import Ask, PlanRequest
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES
from compiler.targets.inductor.options import InductorOptions

TABLES = ("embed.", "position.")


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("scheme", [None, "int8-weight", "fp8"])
@pytest.mark.parametrize("case", ["llama", "mixtral", "gpt2", "gemma2"])
def test_a_step_reads_all_weights_except_tables_and_idle_experts(
    case: str, scheme: str | None, tp: int, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    ask = Ask(tp=tp, quant=Quant(SCHEMES[scheme]) if scheme else Quant())
    plan = plan_of(PlanRequest(model=str(tiny_checkpoint(case)), recipes=recipes, ask=ask, cache=tmp_path))
    config, expected = plan.config, 0.0
    for rank in plan.ranks:
        for name, tensor in rank.tensors:
            expert = ".moe." in name and "router" not in name
            used = config.experts_per_token / config.experts if expert else 1
            read = not name.startswith(TABLES) or (config.tied and name.startswith("embed."))
            expected += tensor.nbytes * used if read and "post_norm" not in name else 0
    assert isinstance(plan.options, InductorOptions)
    products = plan.options.products
    assert step_bytes(config, tp, plan.dtype, products) == pytest.approx(expected, rel=1e-6)
