"""Quantized segments: the library's kernels against the definitions, ranks against one rank, compiled against eager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from compiler.calibration.activations import RESULT as MAXIMA
from compiler.calibration.scales import RESULT, make_scales
from compiler.decoder import quantized as quantized
from compiler.decoder.forward import forward, layer_weights
from compiler.decoder.kernels import Kernels
from compiler.decoder.quantized import QuantizedWeight, definition
from compiler.decoder.rankfile.quantized import scale_of, stored_weight
from compiler.decoder.segments import SegmentSpec, input_names, specs, weight_shapes
from compiler.model.config import ModelConfig
from compiler.model.limits import Limits
from compiler.quantization import formats
from compiler.quantization.scaling import Scaling
from compiler.quantization.schemes import FLOAT, SCHEMES
from compiler.runtime.package import Package
from compiler.storage.cache.stages import StageCache
from compiler.targets.inductor import build, library
from compiler.targets.inductor.forms import FEW_TOKENS, MANY_TOKENS, int_mm, scaled_mm
from compiler.targets.inductor.graph import input_dtype
from tests.calibration.test_activations import opened
from tests.calibration.test_scale_groups import WIDE as SOURCE_WIDE
from tests.calibration.test_scales import converted
from tests.simulated import SimulatedRanks, run_eagerly
from tests.tiny import model_config, write_checkpoint

PRODUCTS = sorted(formats.products())
GENERATOR = torch.Generator().manual_seed(6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("products", PRODUCTS)
def test_forms_compute_their_definition(products: str, dtype: torch.dtype, biased: bool) -> None:
    defined, weight = definition(products), _weight(products, 48, 256)
    bias = torch.randn(48, generator=GENERATOR).to(dtype) if biased else None
    for rows in ((1, 1), (3, 1), (2, 5)):
        x = torch.randn((*rows, 256), generator=GENERATOR).to(dtype)
        expected = defined(x, weight, bias)
        for linear in (FEW_TOKENS[products][0], MANY_TOKENS[products][0]):
            found = linear(x, weight, bias)
            assert found.dtype == dtype
            bfloat16 = dtype == torch.bfloat16
            torch.testing.assert_close(
                found, expected, rtol=2e-2 if bfloat16 else 1e-5, atol=2e-2 if bfloat16 else 1e-4
            )


@pytest.mark.parametrize("out", [48, 51])
@pytest.mark.parametrize("inner", [256, 100])
@pytest.mark.parametrize("products", ["per_token", "per_tensor", "fp8_per_token", "fp8_per_tensor"])
def test_forms_for_gpus_compute_their_definition(products: str, inner: int, out: int) -> None:
    """Of any width, and of fewer rows than the functions take there."""
    form = scaled_mm if products.startswith("fp8") else int_mm
    weight, bias = _weight(products, out, inner), torch.randn(out, generator=GENERATOR).bfloat16()
    for rows in ((1, 1), (2, 9), (40,)):
        x = torch.randn((*rows, inner), generator=GENERATOR).bfloat16()
        expected = definition(products)(x, weight, bias)
        torch.testing.assert_close(form(x, weight, bias), expected, rtol=1 / 128, atol=1e-2)


@pytest.mark.parametrize("products", PRODUCTS)
def test_experts_of_few_tokens_are_those_of_many(products: str) -> None:
    gate_up, down = (
        replace(w, values=w.values.unflatten(0, (4, -1)), scale=w.scale.unflatten(0, (4, -1)))
        for w in (_weight(products, 4 * 2 * 128, 128), _weight(products, 4 * 128, 128))
    )
    for chosen in ([[3, 1]], [[0, 2], [2, 3], [0, 1]]):
        x = torch.randn((len(chosen), 128), generator=GENERATOR).bfloat16()
        share = torch.rand((len(chosen), 2), generator=GENERATOR)
        biases = tuple(torch.randn((4, rows), generator=GENERATOR).bfloat16() for rows in (256, 128))
        assert len(biases) == 2
        found, expected = (
            experts(x, torch.tensor(chosen), share, gate_up, down, "silu", biases).float()
            for experts in (FEW_TOKENS[products][1], quantized.experts(definition(products)))
        )
        assert (found - expected).norm() < 0.02 * expected.norm()


def _weight(products: str, out: int, inner: int) -> QuantizedWeight:
    stored = stored_weight(products)
    shapes = stored.shapes("weight", (out, inner))
    worth = {"int8": 1e-3, "int4": 1e-2, "fp8": 1e-3}[stored.format]
    scale = torch.rand(shapes["scale"], generator=GENERATOR) * worth
    fixed = torch.tensor([5 / 127 if stored.format == "int8" else 5 / 448]) if stored.input_scale else None
    return QuantizedWeight(_values(stored.torch_dtype, shapes["weight"]), scale, fixed)


def _values(dtype: str, shape: tuple[int, ...]) -> Tensor:
    """All numbers of the dtype that conversion makes."""
    if dtype == "float8_e4m3fn":
        return (torch.randn(shape, generator=GENERATOR) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
    least = -127 if dtype == "int8" else 0
    return torch.randint(least, least + (255 if dtype == "int8" else 256), shape, generator=GENERATOR).to(
        getattr(torch, dtype)
    )


def test_scales_are_inputs_behind_their_weights() -> None:
    config = model_config("mixtral")
    found = {spec.name: spec for spec in specs(config, 2, "bfloat16", Limits(64, 1), "per_token")}
    names = input_names(found["mlp-moe.decode1"])
    assert names[-6:] == (
        "mlp.norm.weight", "moe.router.weight", "moe.gate_up.weight", "moe.gate_up.scale",
        "moe.down.weight", "moe.down.scale",
    )  # fmt: skip
    static = {spec.name: spec for spec in specs(config, 2, "bfloat16", Limits(64, 1), "per_tensor")}
    assert input_names(static["mlp-moe.decode1"])[-3:] == ("moe.down.weight", "moe.down.scale", "moe.down.input_scale")
    assert weight_shapes(static["mlp-moe.decode1"])["moe.down.input_scale"] == (1,)
    assert weight_shapes(found["mlp-moe.decode1"])["moe.gate_up.scale"] == (8, 72)
    plain = {spec.name: spec for spec in specs(config, 2, "bfloat16", Limits(64, 1))}
    for name in ("embed.decode1", "head.prefill"):
        assert found[name] == plain[name]  # one package serves both
    assert "moe.down.scale" not in input_names(plain["mlp-moe.decode1"])


@pytest.mark.parametrize("products", ["weight_only", "per_token", "per_tensor", "fp8_per_token", "fp8_per_tensor"])
@pytest.mark.parametrize("case", ["llama/biases", "qwen2_moe", "gpt2", "gptj", "internlm2"])
def test_ranks_compute_what_one_rank_computes(
    case: str, products: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    _compare_ranks(tiny_checkpoint(case), products, tmp_path)


@pytest.mark.parametrize("case", ["llama", "mixtral"])
def test_ranks_of_groups_compute_what_one_rank_computes(case: str, tmp_path: Path) -> None:
    wide = SOURCE_WIDE if case == "llama" else {**SOURCE_WIDE, "intermediate_size": 256}
    folder = write_checkpoint(case, tmp_path / "model", dtype="float32", **wide)
    _compare_ranks(folder, "grouped", tmp_path)


def _compare_ranks(folder: Path, products: str, tmp_path: Path) -> None:
    model, maxima = opened(folder), None
    form, product = formats.products()[products]
    floating = product.activations == "float"
    scheme = replace(
        SCHEMES["int4-weight" if form.group else "int8-weight"],
        weights=form.name,
        activations="float" if floating else form.name,
        activation_scales="tensor" if product.activations == "float" else product.activations,
    )
    if scheme.calibrated:
        model.calibrate(tmp_path / "maxima")
        maxima = load_file(tmp_path / "maxima" / MAXIMA)
    make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=Scaling(scheme), maxima=maxima)
    token_ids = torch.randint(0, model.config.vocab, (2, 12), generator=GENERATOR)
    (whole,) = converted(model, tmp_path / RESULT, tmp_path / "1", 1, products)
    linear = definition(products)
    expected = forward(
        model.config, whole, token_ids, Kernels(quantized=linear, quantized_experts=quantized.experts(linear))
    )
    for tp in (1, 2):
        ranks = converted(model, tmp_path / RESULT, tmp_path / f"{tp}-again", tp, products)
        found = specs(model.config, tp, "float32", Limits(16, 2), products)
        layer = layer_weights(ranks[-1], 0)
        for spec in (spec for spec in found if spec.part == "attn"):
            assert {n: tuple(layer[n].shape) for n in weight_shapes(spec)} == weight_shapes(spec)
            assert layer["attn.o.weight"].dtype == getattr(torch, stored_weight(products).torch_dtype)
        simulated = SimulatedRanks(model.config, ranks, batch=2, positions=16, products=products)
        positions = torch.arange(12).expand(2, 12)
        prefill = simulated.step(token_ids[:, :9], positions[:, :9])
        steps = [simulated.step(token_ids[:, i : i + 1], positions[:, i : i + 1]) for i in range(9, 12)]
        logits = torch.cat([prefill, *steps], 1)
        # Tokens are rounded where they are read: sums in another order, or each rank's part by itself, round others.
        if scheme.activations != "float":
            assert torch.cosine_similarity(logits, expected, dim=-1).median() > 0.995
        else:
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-3)


WIDE = replace(
    model_config("mixtral"), hidden=256, heads=4, kv_heads=2, head_dim=64, rotary_dim=64, ffn=384, moe_ffn=128
)
"""Groups of int4 fit its rows."""


def test_compiled_segments_compute_what_eager_ones_do(tmp_path: Path, session_cache: StageCache) -> None:
    """Every kind of product, of few tokens and of many, of one row and of several, and experts."""
    GENERATOR.manual_seed(6)  # not what tests before have left: one token that is rounded otherwise is beyond the limit
    asked: tuple[tuple[ModelConfig, str, str], ...] = (
        (model_config("llama"), "float", "mlp-gated.decode1"),
        (model_config("llama"), "weight_only", "mlp-gated.decode"),
        (model_config("mixtral"), "per_tensor", "mlp-moe.decode1"),
        (model_config("llama"), "fp8_per_tensor", "mlp-gated.prefill"),
        (model_config("mixtral"), "fp8_per_token", "mlp-moe.prefill"),
        (WIDE, "grouped", "mlp-moe.decode"),
    )
    wanted = [
        next(s for s in specs(config, 1, "bfloat16", Limits(64, 4), products) if s.name == name)
        for config, products, name in asked
    ]
    build.compile_segments(wanted, tmp_path, device="cpu", march="x86-64-v3", cache=session_cache)
    sizes = {"decode1": (1, 1), "decode": (3, 1), "prefill": (3, 5)}
    for spec in wanted:
        inputs = _inputs(spec, *sizes[spec.phase])
        found, expected = (
            Package(tmp_path / f"{spec.name}.pt2").run(inputs)[0].float(),
            run_eagerly(spec, inputs),
        )
        # Where a token's rounding falls on the other side, an integer of 127 differs by one.
        assert (found - expected.float()).norm() < 0.05 * expected.float().norm(), spec.name


def test_compiled_experts_in_groups_are_those_of_the_corrected_scores(tmp_path: Path) -> None:
    """DeepSeek-V3 in bfloat16: the correction of the router stays float32."""
    spec = next(
        s
        for s in specs(model_config("deepseek_v3"), 1, "bfloat16", Limits(64, 4), FLOAT)
        if s.name == "mlp-moe.decode1"
    )
    (package,) = build.compile_segments([spec], tmp_path, device="cpu", march="x86-64-v3")
    compiled = Package(package)
    for _ in range(8):
        inputs = _inputs(spec, 1, 1)
        found, expected = compiled.run(inputs)[0].float(), run_eagerly(spec, inputs).float()
        assert (found - expected).norm() < 0.05 * expected.norm()


def test_many_tokens_may_go_through_the_library_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session_cache: StageCache
) -> None:
    """As on CPUs with tiles or without VNNI: bit for bit what our own products give."""
    config = model_config("llama/biases")
    (spec,) = (s for s in specs(config, 1, "bfloat16", Limits(64, 4), "per_token") if s.name == "mlp-gated.prefill")
    inputs = _inputs(spec, 3, 5)
    found, packages = [], set()
    for flags in (library.FLAGS, (*library.FLAGS, "-DPRODUCTS_ALWAYS_IN_LIBRARY")):
        monkeypatch.setattr(library, "FLAGS", flags)
        (package,) = build.compile_segments(
            [spec], tmp_path / f"{len(flags)}", device="cpu", march="x86-64-v3", cache=session_cache
        )
        packages.add(package.read_bytes())
        found.append(Package(package).run(inputs)[0])
    assert len(packages) == 2
    assert torch.equal(*found)


def _inputs(spec: SegmentSpec, batch: int, length: int) -> Sequence[Tensor]:
    shapes, stored = weight_shapes(spec), None if spec.products == FLOAT else stored_weight(spec.products)
    made = []
    for name in input_names(spec):
        if name == "x":
            made.append(torch.randn((batch, length, spec.config.hidden), generator=GENERATOR).bfloat16())
        elif name == "first":
            made.append(torch.ones((), dtype=torch.bfloat16))
        elif name.endswith(".input_scale"):
            made.append(torch.tensor([0.03]))
        elif name.endswith(".scale"):
            made.append(torch.rand(shapes[name], generator=GENERATOR) / 600)
        elif stored and name.endswith(".weight") and scale_of(name) in shapes:
            made.append(_values(stored.torch_dtype, shapes[name]))
        else:
            made.append(torch.randn(shapes[name], generator=GENERATOR).to(input_dtype(name, spec, shapes)))
    return made
