"""Builds with a quantized head: planned, stored, told, and judged; also where the model's head is its embedding."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import recipes
from compiler.artifact.manifest import PROVENANCE
from compiler.artifact.quantization import quant_of
from compiler.decoder.traffic import step_bytes
from compiler.errors import NumericsError, RefusedError
from compiler.numerics.verify import check_layout
from compiler.pipeline.build import build
from compiler.pipeline.located import plan_of
from compiler.pipeline.plan import Plan
from compiler.pipeline.request import Ask, PlanRequest
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES
from compiler.runtime.section import Segments, check_artifact
from compiler.targets.inductor.options import InductorOptions
from tests.pipeline.test_quantized import INT8, SHORT, SMOOTH, Requests, assert_repeats_its_scheme, scaled
from tests.stand_in import StandIn

HEAD_NAMES = ("lm_head.weight", "model.embed_tokens.weight", "transformer.wte.weight")
"""Names of the head in a checkpoint, then those of a tied one."""


@pytest.mark.parametrize(
    ("case", "asked", "products"),
    [
        ("llama", Quant(head="int8"), "float"),
        ("llama/tied", Quant(INT8, head="int8"), "weight_only"),
        ("gpt2", Quant(SMOOTH, text=SHORT, cache="int8", head="int8"), "per_token"),
        ("baichuan/v2-7b", Quant(head="int8"), "float"),
    ],
)
def test_a_quantized_head_is_planned_stored_and_told(
    case: str,
    asked: Quant,
    products: str,
    quantized: Requests,
    tiny_checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    result = build(quantized(asked, case, tp=2), toolchain=StandIn())
    made = check_artifact(result.output, by="sha256")
    check_layout(made, tmp_path / "artifact")
    assert isinstance(made.section, Segments)
    assert (made.section.products, made.section.head) == (products, "weight_only")
    assert made.quantisation is not None
    assert (made.quantisation.scheme, made.quantisation.head) == (asked.scheme.name if asked.scheme else "", "int8")
    assert_repeats_its_scheme(made)
    assert quant_of(made.quantisation).decides == replace(asked, text=quant_of(made.quantisation).text).decides
    assert "--lm-head int8" in re.sub(r'",\s*"', " ", (tmp_path / "artifact" / PROVENANCE).read_text())
    config = result.plan.config
    ranks = [load_file(tmp_path / "artifact" / rank) for rank in made.section.weights]
    stored = [load_file(path) for path in tiny_checkpoint(case).glob("*.safetensors")]
    source = next(file[name] for name in HEAD_NAMES for file in stored if name in file)
    found = torch.cat([rank["head.weight"] for rank in ranks])[: config.vocab]
    scale = torch.cat([rank["head.scale"] for rank in ranks])[: config.vocab]
    assert (found.dtype, scale.dtype, scale.shape) == (torch.int8, torch.float32, (config.vocab,))
    assert ((found.float() * scale[:, None] - source.float()).abs() <= scale[:, None] * 0.5001).all()
    assert all(rank["embed.weight"].dtype != torch.int8 for rank in ranks)


@pytest.mark.parametrize("case", ["llama", "llama/tied"])
def test_a_row_with_a_wrong_scale_fails_the_build_and_is_named(
    case: str, quantized: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled(monkeypatch, "head.scale", 2, "weights/rank1.safetensors")
    with pytest.raises(NumericsError, match=r"`head`: .* times the scheme's own error away"):
        build(quantized(Quant(head="int8", max_perplexity_increase=10.0), case), toolchain=StandIn())


@pytest.mark.parametrize("case", ["llama", "llama/tied"])
def test_a_step_reads_half_the_bytes_of_a_quantized_head(
    case: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    def plan(head: str) -> Plan:
        ask = Ask(tp=1, quant=Quant(head=head))
        return plan_of(PlanRequest(model=str(tiny_checkpoint(case)), recipes=recipes, ask=ask, cache=tmp_path))

    def read(made: Plan) -> int:
        assert isinstance(made.options, InductorOptions)
        return step_bytes(made.config, 1, made.dtype, made.options.products, made.options.head)

    plain = plan("")
    itemsize = {"bfloat16": 2, "float32": 4}[plain.dtype]
    saved = plain.config.vocab * (plain.config.hidden * (itemsize - 1) - 4)  # a row has a float32 scale
    assert read(plain) - read(plan("int8")) == saved


@pytest.mark.parametrize("scheme", [None, "int8-weight"])
@pytest.mark.parametrize("target", ["trtllm", "vllm", "neuron"])
def test_targets_without_such_kernels_refuse(
    target: str, scheme: str | None, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    ask = Ask(tp=1, quant=Quant(SCHEMES[scheme] if scheme else None, head="int8"))
    request = PlanRequest(model=str(tiny_checkpoint("llama")), recipes=recipes, ask=ask, cache=tmp_path, target=target)
    with pytest.raises(RefusedError, match=f"target `{target}` does not quantize the head; found `--lm-head int8`"):
        plan_of(request)
