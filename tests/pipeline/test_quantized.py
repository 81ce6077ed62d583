"""Quantized builds, as a user asks for them: from options to an artifact that says what it has lost, or to none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compiler.artifact.manifest import PROVENANCE, Manifest
from compiler.artifact.quantization import FIGURES, REPORT, quant_of
from compiler.errors import (
    NumericsError,
    UsageError,
)
from compiler.numerics.verify import check_layout
from compiler.pipeline.build import build
from compiler.pipeline.convert_only import convert_to
from compiler.pipeline.rank_files import convert
from compiler.pipeline.request import BuildRequest
from compiler.quantization.request import Quant, Text, scheme_of
from compiler.quantization.schemes import SCHEMES, Tolerance
from compiler.quantization.smooth import CANDIDATES
from compiler.runtime.section import Segments, check_artifact
from compiler.storage.files.digest import sha256_file
from tests.builds import Heard, leftovers, tree
from tests.pipeline.test_reference import Real, exact, wrong
from tests.stand_in import StandIn

Requests = Callable[..., BuildRequest]
LOOSE = Tolerance(perplexity=10, kl=10, stream=10)
"""Models of the tests are not trained: what rounding costs them says nothing."""
INT8, SMOOTH = (replace(SCHEMES[name], tolerance=LOOSE) for name in ("int8-weight", "smoothquant"))
SHORT = Text(samples=4, length=32)


def built(request: BuildRequest, report: Heard | None = None) -> Manifest:
    return check_artifact(build(request, report, toolchain=StandIn()).output, by="sha256")


def assert_repeats_its_scheme(made: Manifest) -> None:
    """Every part of every layer has the error that the scheme has without files."""
    assert made.quantisation is not None
    gate = made.quantisation.gate
    assert gate.distance is not None
    assert gate.distance < 0.1
    assert gate.coverage is not None
    assert (gate.coverage.proof, gate.coverage.layers) == ("standard", list(range(made.config.layers)))


def test_a_quantized_build_says_what_it_is_and_what_it_has_lost(quantized: Requests, tmp_path: Path) -> None:
    heard, asked = Heard(), Quant(SMOOTH, alpha=0.7, text=SHORT)
    made = built(quantized(asked), heard)
    assert [stage for stage, _ in heard.stages] == [
        "plan", "digest", "calibrate", "scales", "convert", "gate", "reference", "judge", "compile",
        "package", "verify",
    ]  # fmt: skip
    found = made.quantisation
    assert found is not None
    assert (found.scheme, found.weights, found.activation_scales, found.alpha) == ("smoothquant", "int8", "token", 0.7)
    assert found.calibration is not None
    assert (found.calibration.text, found.calibration.tokens) == ("built-in calibration.txt", 128)
    assert 0 < found.gate.kl < 1
    assert not found.gate.accepted
    assert found.gate.worst.startswith("layers.")
    assert "<title>LlamaForCausalLM, smoothquant, tp 2</title>" in (tmp_path / "artifact" / REPORT).read_text()
    figures = json.loads((tmp_path / "artifact" / FIGURES).read_text())
    assert {one["name"].split(".", 2)[2] for one in figures["outliers"]} == {"attn.o", "attn.q", "mlp.down", "mlp.gate"}
    assert len(figures["parts"]) == 6
    assert isinstance(made.section, Segments)
    assert made.section.products == "per_token"
    assert quant_of(found).decides == replace(asked, text=replace(SHORT, digest=found.calibration.digest)).decides
    check_layout(made, tmp_path / "artifact")
    assert leftovers(tmp_path) == []
    definition = json.loads((tmp_path / "artifact" / PROVENANCE).read_text())["predicate"]["buildDefinition"]
    command = " ".join(definition["externalParameters"]["command"])
    assert "--quant smoothquant --per-token --per-channel --smoothquant-alpha 0.7 --calibration-samples 4" in command
    assert definition["externalParameters"]["quantisation"]["weights"] == "int8"
    assert "gate" not in definition["externalParameters"]["quantisation"]
    assert "calibration" in {one["name"] for one in definition["resolvedDependencies"]}


def test_an_alpha_of_every_group_is_searched_for_and_told(quantized: Requests) -> None:
    heard, asked = Heard(), Quant(SMOOTH, alpha=None, text=SHORT)
    found = built(quantized(asked), heard).quantisation
    assert found is not None
    assert found.alpha is None
    groups = ("attn.o", "attn.q", "mlp.down", "mlp.gate")
    assert sorted(found.alphas) == [f"layers.{layer}.{group}" for layer in range(3) for group in groups]
    assert set(found.alphas.values()) <= set(CANDIDATES)
    assert len(set(found.alphas.values())) > 1
    assert quant_of(found).alpha is None
    assert "most often" in dict(heard.stages)["scales"]


def test_results_are_reused_for_the_same_scheme_and_made_again_for_another(quantized: Requests, tmp_path: Path) -> None:
    asked = Quant(SMOOTH, text=SHORT)
    first = build(quantized(asked), toolchain=StandIn())
    assert build(quantized(asked), toolchain=StandIn()).up_to_date
    other = build(quantized(replace(asked, alpha=0.9), output=tmp_path / "other"), toolchain=StandIn())
    assert "convert" in other.made
    assert "compile" not in other.made  # packages do not depend on alpha
    heard = Heard()
    build(quantized(asked, tp=1, output=tmp_path / "one"), heard, toolchain=StandIn())
    assert [note for stage, note in heard.stages if stage in ("calibrate", "scales")] == ["cached", "cached"]
    assert first.manifest is not None
    assert other.manifest is not None
    assert first.plan.digest != other.plan.digest


def test_rank_files_are_those_that_convert_writes(quantized: Requests, tmp_path: Path) -> None:
    request = quantized(Quant(SMOOTH, text=SHORT))
    build(request, toolchain=StandIn())
    convert_to(replace(request, cache=tmp_path / "cache2"), tmp_path / "ranks")
    for rank in ("rank0", "rank1"):
        file = f"weights/{rank}.safetensors"
        # A rank file of an artifact has checksums of its tensors in its header.
        one, two = (load_file(folder / file) for folder in (tmp_path / "artifact", tmp_path / "ranks"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_every_rank_count_has_the_same_loss(quantized: Requests, tmp_path: Path) -> None:
    asked = Quant(INT8)
    gates = []
    for tp in (1, 4):
        found = built(quantized(asked, tp=tp, output=tmp_path / f"tp{tp}")).quantisation
        assert found is not None
        gates.append(found.gate)
    assert gates[0].perplexity == pytest.approx(gates[1].perplexity, rel=1e-3)
    assert gates[0].kl == pytest.approx(gates[1].kl, rel=0.05)


@pytest.mark.parametrize("case", ["mixtral", "gpt2", "qwen2_moe"])
def test_other_layers_take_the_same_path(case: str, quantized: Requests, tmp_path: Path) -> None:
    made = built(quantized(Quant(SMOOTH, text=SHORT), case))
    check_layout(made, tmp_path / "artifact")
    assert made.quantisation is not None
    assert made.quantisation.gate.cosine > 0.99
    assert_repeats_its_scheme(made)


@pytest.mark.parametrize("case", ["llama", "qwen2_moe"])
@pytest.mark.parametrize(
    ("name", "flags", "products"),
    [
        ("smoothquant", {"per_token": False}, "per_tensor"),
        ("smoothquant", {"per_token": False, "per_channel": False}, "per_tensor"),
        ("fp8", {}, "fp8_per_token"),
        ("fp8", {"per_token": False, "per_channel": False}, "fp8_per_tensor"),
    ],
)
def test_every_flag_takes_the_same_path(
    name: str, flags: dict[str, bool], products: str, case: str, quantized: Requests, tmp_path: Path
) -> None:
    scheme = scheme_of(name, **flags)
    assert scheme is not None
    heard = Heard()
    made = built(quantized(Quant(replace(scheme, tolerance=LOOSE), text=SHORT), case), heard)
    check_layout(made, tmp_path / "artifact")
    assert isinstance(made.section, Segments)
    assert made.section.products == products
    assert made.quantisation is not None
    assert made.quantisation.gate.cosine > 0.98
    assert_repeats_its_scheme(made)
    assert ("calibrate" in dict(heard.stages)) == scheme.calibrated
    ranks = [load_file(tmp_path / "artifact" / file) for file in made.section.weights]
    fixed = {tensor for tensor in ranks[0] if tensor.endswith(".input_scale")}
    assert bool(fixed) == products.endswith("tensor")
    assert all(torch.equal(ranks[0][tensor], ranks[1][tensor]) for tensor in fixed)


def test_a_scale_that_all_tokens_share_is_refused_where_it_loses_too_much(
    quantized: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All inputs above a tenth of the largest are cut off."""
    scheme = scheme_of("smoothquant", per_token=False)
    assert scheme is not None
    files = (f"weights/rank{rank}.safetensors" for rank in range(2))
    scaled(monkeypatch, "layers.1.mlp.gate_up.input_scale", 0.1, *files)
    strict = replace(scheme, tolerance=Tolerance(perplexity=10, kl=10, stream=10))
    with pytest.raises(NumericsError, match=r"`layers\.1\.mlp`: .* times the scheme's own error away"):
        build(quantized(Quant(strict, text=SHORT)), toolchain=StandIn())


def scaled(monkeypatch: pytest.MonkeyPatch, name: str, times: float, *files: str) -> None:
    """From now on, conversion multiplies one scale tensor of some rank files."""

    def broken(plans: Any, checkpoint: Any, out: Path, **options: Any) -> Any:
        done = convert(plans, checkpoint, out, **options)
        for file in files:
            _rewrite(out / file, name, times)
        return [
            replace(d, digest=sha256_file(out / d.path), size=(out / d.path).stat().st_size, crc=None) for d in done
        ]

    def _rewrite(file: Path, name: str, times: float) -> None:
        tensors = load_file(file)
        tensors[name] = tensors[name] * times
        file.chmod(0o644)
        save_file(tensors, file)

    monkeypatch.setattr("compiler.pipeline.steps.convert.stream", broken)


def test_a_broken_scale_fails_the_build_and_names_the_layer(
    quantized: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Quant(replace(INT8, tolerance=Tolerance(perplexity=10, kl=10, stream=10)))
    scaled(monkeypatch, "layers.1.mlp.down.scale", 2, "weights/rank1.safetensors")
    with pytest.raises(NumericsError, match=r"`layers\.1\.mlp`: .* times the scheme's own error away") as caught:
        build(quantized(asked), toolchain=StandIn())
    page, figures = tmp_path / f"artifact.{REPORT}", tmp_path / "artifact.numerics.json"
    assert str(page) in caught.value.message
    assert "layers.1.mlp" in page.read_text()
    assert json.loads(figures.read_text())["parts"][3]["name"] == "layers.1.mlp"
    assert not (tmp_path / "artifact").exists()
    assert leftovers(tmp_path) == []
    heard = Heard()
    made = built(quantized(replace(asked, accept=True)), heard)
    assert made.quantisation is not None
    assert made.quantisation.gate.accepted
    assert made.quantisation.gate.worst == "layers.1.mlp"
    assert any("it is accepted" in warning for warning in heard.warnings)


def test_a_tighter_limit_is_kept(quantized: Requests) -> None:
    with pytest.raises(NumericsError, match=r"expected at most -100\.00%"):
        build(quantized(Quant(INT8, max_perplexity_increase=-1.0)), toolchain=StandIn())


def test_another_limit_changes_the_verdict_and_nothing_else(quantized: Requests, tmp_path: Path) -> None:
    """No stage runs again, nothing needs force, and a limit that is not met touches nothing."""
    allowed = replace(INT8, tolerance=Tolerance(perplexity=10, kl=10, stream=10))
    first = build(quantized(Quant(allowed, max_perplexity_increase=-1.0, accept=True)), toolchain=Real(), logits=exact)
    assert first.manifest is not None
    assert first.manifest.quantisation is not None
    assert first.manifest.quantisation.gate.accepted
    inodes = {path: path.stat().st_ino for path in first.output.rglob("*.safetensors")}
    again = build(quantized(Quant(allowed)), toolchain=Real(), logits=wrong)  # not even asked
    assert again.made == {"judge": 1, "package": 1}  # the judge allows for what the gate tolerates
    found = check_artifact(first.output, by="sha256")
    assert found.quantisation is not None
    assert (found.quantisation.gate.accepted, found.quantisation.gate.limits["perplexity"]) == (False, 10)
    assert found.substance == first.manifest.substance
    assert {path: path.stat().st_ino for path in first.output.rglob("*.safetensors")} == inodes
    before = tree(first.output)
    with pytest.raises(NumericsError, match="expected at most -100"):
        build(quantized(Quant(allowed, max_perplexity_increase=-1.0)), toolchain=Real(), logits=exact)
    assert tree(first.output) == before
    assert build(quantized(Quant(allowed)), toolchain=Real(), logits=wrong).up_to_date
    # What was signed is not what would stand there.
    (first.output / "manifest.json.sig").write_text("signed")
    with pytest.raises(UsageError, match="holds another artifact"):
        build(quantized(Quant(allowed, max_perplexity_increase=0.5)), toolchain=Real(), logits=exact)
    assert not any("numerics" in path.name for path in tmp_path.iterdir() if path.is_dir())
