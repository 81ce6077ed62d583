"""Quantised segments: the library's kernels against the definitions, ranks against one rank, compiled against eager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compiler.decoder import quantised
from compiler.decoder.forward import forward
from compiler.decoder.kernels import Kernels
from compiler.decoder.quantised import QuantisedLinear
from compiler.ir.limits import Limits
from compiler.quant.scaling import Scaling
from compiler.quant.schemes import SCHEMES
from compiler.runtime.package import Package
from compiler.stages.scale import RESULT, make_scales
from compiler.targets.inductor import build
from compiler.targets.inductor.int8 import experts_of_one, weight_only_many, weight_only_one
from compiler.targets.inductor.segments import Products, SegmentSpec, input_names, specs, weight_shapes
from tests.simulated import SimulatedRanks, run_eagerly
from tests.stages.test_calibrate import opened
from tests.stages.test_scale import converted
from tests.tiny import model_config

GENERATOR = torch.Generator().manual_seed(6)
DEFINITIONS: dict[Products, QuantisedLinear] = {
    "weight_only": quantised.weight_only,
    "per_token": quantised.per_token,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("fast", "rows"),
    [(weight_only_one, (1, 1)), (weight_only_many, (1, 1)), (weight_only_many, (3, 1)), (weight_only_many, (2, 5))],
)
def test_a_fast_form_computes_its_definition(
    fast: QuantisedLinear, rows: tuple[int, int], dtype: torch.dtype, biased: bool
) -> None:
    x = torch.randn((*rows, 64), generator=GENERATOR).to(dtype)
    weight = torch.randint(-127, 128, (48, 64), generator=GENERATOR, dtype=torch.int8)
    scale = torch.rand(48, generator=GENERATOR) / 100
    bias = torch.randn(48, generator=GENERATOR).to(dtype) if biased else None
    found, expected = fast(x, weight, scale, bias), quantised.weight_only(x, weight, scale, bias)
    assert found.dtype == dtype
    bfloat16 = dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2e-2 if bfloat16 else 1e-5, atol=1e-2 if bfloat16 else 1e-4)


def test_one_token_reads_its_experts() -> None:
    gate_up = torch.randint(-127, 128, (4, 20, 16), generator=GENERATOR, dtype=torch.int8)
    down = torch.randint(-127, 128, (4, 16, 10), generator=GENERATOR, dtype=torch.int8)
    scales = torch.rand((4, 20), generator=GENERATOR) / 300, torch.rand((4, 16), generator=GENERATOR) / 300
    x, chosen, share = torch.randn((1, 16), generator=GENERATOR), torch.tensor([[3, 1]]), torch.tensor([[0.7, 0.3]])
    for linear in DEFINITIONS.values():
        found, expected = (
            form(linear)(x, chosen, share, gate_up, scales[0], down, scales[1], "silu")
            for form in (experts_of_one, quantised.experts)
        )
        torch.testing.assert_close(found, expected)


def test_scales_are_inputs_behind_their_weights() -> None:
    config = model_config("mixtral")
    found = {spec.name: spec for spec in specs(config, 2, "bfloat16", Limits(64, 1), "per_token")}
    names = input_names(found["mlp-moe.decode1"])
    assert names[-6:] == (
        "mlp.norm.weight", "moe.router.weight", "moe.gate_up.weight", "moe.gate_up.scale",
        "moe.down.weight", "moe.down.scale",
    )  # fmt: skip
    assert weight_shapes(found["mlp-moe.decode1"])["moe.gate_up.scale"] == (8, 72)
    plain = {spec.name: spec for spec in specs(config, 2, "bfloat16", Limits(64, 1))}
    for name in ("embed.decode1", "head.prefill"):
        assert found[name] == plain[name]  # one package serves both
    assert "moe.down.scale" not in input_names(plain["mlp-moe.decode1"])


@pytest.mark.parametrize("products", DEFINITIONS)
@pytest.mark.parametrize("case", ["llama", "llama/biases", "qwen2_moe", "gpt2", "gptj", "internlm2"])
def test_ranks_compute_what_one_rank_computes(
    case: str, products: Products, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = opened(tiny_checkpoint(case))
    make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=Scaling(SCHEMES["int8-weight"]))
    token_ids = torch.randint(0, model.config.vocab, (2, 12), generator=GENERATOR)
    (whole,) = converted(model, tmp_path / RESULT, tmp_path / "1", 1)
    linear = DEFINITIONS[products]
    expected = forward(
        model.config, whole, token_ids, Kernels(quantised=linear, quantised_experts=quantised.experts(linear))
    )
    for tp in (1, 2):
        ranks = converted(model, tmp_path / RESULT, tmp_path / f"{tp}-again", tp)
        simulated = SimulatedRanks(model.config, ranks, batch=2, positions=16, products=products)
        positions = torch.arange(12).expand(2, 12)
        prefill = simulated.step(token_ids[:, :9], positions[:, :9])
        steps = [simulated.step(token_ids[:, i : i + 1], positions[:, i : i + 1]) for i in range(9, 12)]
        found = torch.cat([prefill, *steps], 1)
        # Tokens are rounded where they are read: sums in another order, or each rank's part by itself, round others.
        if products == "weight_only":
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
        else:
            assert torch.cosine_similarity(found, expected, dim=-1).median() > 0.995


def test_compiled_segments_compute_what_eager_ones_do(tmp_path: Path) -> None:
    """One of each kind of product, and the experts of one token; each is a quarter of a minute of compiler."""
    asked: tuple[tuple[str, Products, str], ...] = (
        ("llama", "weight_only", "mlp-gated.decode1"),
        ("llama", "per_token", "mlp-gated.prefill"),
        ("mixtral", "per_token", "mlp-moe.decode1"),
    )
    wanted = [
        next(s for s in specs(model_config(case), 1, "bfloat16", Limits(64, 4), products) if s.name == name)
        for case, products, name in asked
    ]
    build.compile_segments(wanted, tmp_path, device="cpu", march="x86-64-v3")
    for spec in wanted:
        inputs = _inputs(spec, *((1, 1) if spec.phase == "decode1" else (3, 5)))
        found, expected = Package(tmp_path / f"{spec.name}.pt2").run(inputs)[0].float(), run_eagerly(spec, inputs)
        # Where a token's rounding falls on the other side, an integer of 127 differs by one.
        assert (found - expected.float()).norm() < 0.05 * expected.float().norm(), spec.name


def _inputs(spec: SegmentSpec, batch: int, length: int) -> Sequence[Tensor]:
    shapes = weight_shapes(spec)
    made = []
    for name in input_names(spec):
        if name == "x":
            made.append(torch.randn((batch, length, spec.config.hidden), generator=GENERATOR).bfloat16())
        elif name.endswith(".scale"):
            made.append(torch.rand(shapes[name], generator=GENERATOR) / 600)
        elif name.replace(".weight", ".scale") in shapes and name.endswith(".weight"):
            made.append(torch.randint(-127, 128, shapes[name], generator=GENERATOR, dtype=torch.int8))
        else:
            made.append(torch.randn(shapes[name], generator=GENERATOR).bfloat16())
    return made
