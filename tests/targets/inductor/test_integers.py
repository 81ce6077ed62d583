"""Quantised segments: the library's kernels against the definitions, ranks against one rank, compiled against eager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compiler.decoder import quantised
from compiler.decoder.forward import forward, layer_weights
from compiler.decoder.kernels import Kernels
from compiler.decoder.quantised import QuantisedLinear
from compiler.ir.config import ModelConfig
from compiler.ir.limits import Limits
from compiler.quant.int4 import GROUP
from compiler.quant.scaling import Scaling
from compiler.quant.schemes import SCHEMES
from compiler.runtime.package import Package
from compiler.stages.scale import RESULT, make_scales
from compiler.targets.inductor import build, library
from compiler.targets.inductor.integers import FEW_TOKENS, MANY_TOKENS
from compiler.targets.inductor.segments import STORED, Products, SegmentSpec, input_names, specs, weight_shapes
from tests.simulated import SimulatedRanks, run_eagerly
from tests.stages.test_calibrate import opened
from tests.stages.test_scale import WIDE as SOURCE_WIDE
from tests.stages.test_scale import converted
from tests.tiny import model_config, write_checkpoint

GENERATOR = torch.Generator().manual_seed(6)
DEFINITIONS: dict[Products, QuantisedLinear] = {
    "weight_only": quantised.weight_only,
    "per_token": quantised.per_token,
    "grouped": quantised.grouped,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("products", DEFINITIONS)
def test_forms_compute_their_definition(products: Products, dtype: torch.dtype, biased: bool) -> None:
    definition = DEFINITIONS[products]
    weight, scale = _weight(products, 48, 256)
    bias = torch.randn(48, generator=GENERATOR).to(dtype) if biased else None
    for rows in ((1, 1), (3, 1), (2, 5)):
        x = torch.randn((*rows, 256), generator=GENERATOR).to(dtype)
        expected = definition(x, weight, scale, bias)
        for linear in (FEW_TOKENS[products][0], MANY_TOKENS[products][0]):
            found = linear(x, weight, scale, bias)
            assert found.dtype == dtype
            bfloat16 = dtype == torch.bfloat16
            torch.testing.assert_close(
                found, expected, rtol=2e-2 if bfloat16 else 1e-5, atol=2e-2 if bfloat16 else 1e-4
            )


@pytest.mark.parametrize("products", DEFINITIONS)
def test_experts_of_few_tokens_are_those_of_many(products: Products) -> None:
    gate_up, gate_up_scale = _weight(products, 4 * 2 * 128, 128)
    down, down_scale = _weight(products, 4 * 128, 128)
    a, b, c, d = (t.unflatten(0, (4, -1)) for t in (gate_up, gate_up_scale, down, down_scale))
    for chosen in ([[3, 1]], [[0, 2], [2, 3], [0, 1]]):
        x = torch.randn((len(chosen), 128), generator=GENERATOR).bfloat16()
        share = torch.rand((len(chosen), 2), generator=GENERATOR)
        found, expected = (
            experts(x, torch.tensor(chosen), share, a, b, c, d, "silu").float()
            for experts in (FEW_TOKENS[products][1], quantised.experts(DEFINITIONS[products]))
        )
        assert (found - expected).norm() < 0.02 * expected.norm()


def _weight(products: Products, out: int, inner: int) -> tuple[Tensor, Tensor]:
    if products == "grouped":
        packed = torch.randint(0, 256, (out, inner // 2), generator=GENERATOR, dtype=torch.uint8)
        return packed, torch.rand((out, inner // GROUP), generator=GENERATOR) / 100
    weight = torch.randint(-127, 128, (out, inner), generator=GENERATOR, dtype=torch.int8)
    return weight, torch.rand(out, generator=GENERATOR) / 1000


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


@pytest.mark.parametrize("products", ["weight_only", "per_token"])
@pytest.mark.parametrize("case", ["llama", "llama/biases", "qwen2_moe", "gpt2", "gptj", "internlm2"])
def test_ranks_compute_what_one_rank_computes(
    case: str, products: Products, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    _compare_ranks(tiny_checkpoint(case), "int8-weight", products, tmp_path)


@pytest.mark.parametrize("case", ["llama", "mixtral"])
def test_ranks_of_groups_compute_what_one_rank_computes(case: str, tmp_path: Path) -> None:
    wide = SOURCE_WIDE if case == "llama" else {**SOURCE_WIDE, "intermediate_size": 256}
    folder = write_checkpoint(case, tmp_path / "model", dtype="float32", **wide)
    _compare_ranks(folder, "int4-weight", "grouped", tmp_path)


def _compare_ranks(folder: Path, scheme: str, products: Products, tmp_path: Path) -> None:
    model = opened(folder)
    make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=Scaling(SCHEMES[scheme]))
    token_ids = torch.randint(0, model.config.vocab, (2, 12), generator=GENERATOR)
    (whole,) = converted(model, tmp_path / RESULT, tmp_path / "1", 1)
    linear = DEFINITIONS[products]
    expected = forward(
        model.config, whole, token_ids, Kernels(quantised=linear, quantised_experts=quantised.experts(linear))
    )
    for tp in (1, 2):
        ranks = converted(model, tmp_path / RESULT, tmp_path / f"{tp}-again", tp)
        found = specs(model.config, tp, "float32", Limits(16, 2), products)
        layer = layer_weights(ranks[-1], 0)
        for spec in (spec for spec in found if spec.part == "attn"):
            assert {n: tuple(layer[n].shape) for n in weight_shapes(spec)} == weight_shapes(spec)
            assert layer["attn.o.weight"].dtype == getattr(torch, STORED[products].dtype)
        simulated = SimulatedRanks(model.config, ranks, batch=2, positions=16, products=products)
        positions = torch.arange(12).expand(2, 12)
        prefill = simulated.step(token_ids[:, :9], positions[:, :9])
        steps = [simulated.step(token_ids[:, i : i + 1], positions[:, i : i + 1]) for i in range(9, 12)]
        logits = torch.cat([prefill, *steps], 1)
        # Tokens are rounded where they are read: sums in another order, or each rank's part by itself, round others.
        if products == "per_token":
            assert torch.cosine_similarity(logits, expected, dim=-1).median() > 0.995
        else:
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-3)


WIDE = replace(
    model_config("mixtral"), hidden=256, heads=4, kv_heads=2, head_dim=64, rotary_dim=64, ffn=384, moe_ffn=128
)
"""Groups of int4 fit its rows."""


def test_compiled_segments_compute_what_eager_ones_do(tmp_path: Path) -> None:
    """Every kind of product, of few tokens and of many, of one row and of several, and experts."""
    asked: tuple[tuple[ModelConfig, Products, str], ...] = (
        (model_config("llama"), "float", "mlp-gated.decode1"),
        (model_config("llama"), "weight_only", "mlp-gated.decode"),
        (model_config("llama"), "per_token", "mlp-gated.prefill"),
        (model_config("mixtral"), "per_token", "mlp-moe.decode1"),
        (WIDE, "grouped", "mlp-moe.decode"),
    )
    wanted = [
        next(s for s in specs(config, 1, "bfloat16", Limits(64, 4), products) if s.name == name)
        for config, products, name in asked
    ]
    build.compile_segments(wanted, tmp_path, device="cpu", march="x86-64-v3")
    sizes = {"decode1": (1, 1), "decode": (3, 1), "prefill": (3, 5)}
    for spec in wanted:
        inputs = _inputs(spec, *sizes[spec.phase])
        found, expected = Package(tmp_path / f"{spec.name}.pt2").run(inputs)[0].float(), run_eagerly(spec, inputs)
        # Where a token's rounding falls on the other side, an integer of 127 differs by one.
        assert (found - expected.float()).norm() < 0.05 * expected.float().norm(), spec.name


def test_many_tokens_may_go_through_the_library_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CPUs with tiles or without VNNI: bit for bit what our own products give."""
    config = model_config("llama/biases")
    (spec,) = (s for s in specs(config, 1, "bfloat16", Limits(64, 4), "per_token") if s.name == "mlp-gated.prefill")
    inputs = _inputs(spec, 3, 5)
    found, packages = [], set()
    for flags in (library.FLAGS, (*library.FLAGS, "-DPRODUCTS_ALWAYS_IN_LIBRARY")):
        monkeypatch.setattr(library, "FLAGS", flags)
        (package,) = build.compile_segments([spec], tmp_path / f"{len(flags)}", device="cpu", march="x86-64-v3")
        packages.add(package.read_bytes())
        found.append(Package(package).run(inputs)[0])
    assert len(packages) == 2
    assert torch.equal(*found)


def _inputs(spec: SegmentSpec, batch: int, length: int) -> Sequence[Tensor]:
    shapes = weight_shapes(spec)
    made = []
    for name in input_names(spec):
        if name == "x":
            made.append(torch.randn((batch, length, spec.config.hidden), generator=GENERATOR).bfloat16())
        elif name == "first":
            made.append(torch.ones((), dtype=torch.bfloat16))
        elif name.endswith(".scale"):
            made.append(torch.rand(shapes[name], generator=GENERATOR) / 600)
        elif name.replace(".weight", ".scale") in shapes and name.endswith(".weight"):
            bits = torch.randint(0, 256, shapes[name], generator=GENERATOR, dtype=torch.uint8)
            made.append(bits.view(getattr(torch, STORED[spec.products].dtype)))
        else:
            made.append(torch.randn(shapes[name], generator=GENERATOR).bfloat16())
    return made
