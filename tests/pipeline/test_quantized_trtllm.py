"""Quantized builds for TensorRT-LLM, up to what its judge says of the rank files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.artifact.manifest import Manifest
from compiler.artifact.quantization import REPORT
from compiler.errors import NumericsError
from compiler.pipeline.build import build
from compiler.pipeline.request import BuildRequest
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES, Scheme, Tolerance
from compiler.quantization.smooth import CANDIDATES
from tests.builds import Heard, leftovers
from tests.pipeline.test_quantized import SHORT, scaled
from tests.targets.trtllm.test_schemes import SIZES
from tests.tiny import write_checkpoint

Requests = Callable[..., BuildRequest]
AT = "transformer.layers.1."


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose columns are whole groups at tp 2."""
    return str(write_checkpoint("llama", tmp_path_factory.mktemp("wide") / "model", dtype="float32", **SIZES["llama"]))


def _scheme(name: str) -> Scheme:
    """With a tolerance that only looks at layers: models of the tests are not trained."""
    return replace(SCHEMES[name], tolerance=Tolerance(perplexity=10, kl=10, stream=10))


def _judged(request: BuildRequest, report: Heard | None = None) -> Manifest:
    made = build(replace(request, target="trtllm", until="judge"), report).manifest
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("name", "tensor", "part"),
    [
        ("smoothquant", "mlp.proj.per_channel_scale", "layers.1.mlp"),
        ("smoothquant", "attention.qkv.per_channel_scale", "layers.1.attn"),
        ("fp8", "mlp.fc.weights_scaling_factor", "layers.1.mlp"),
    ],
)
def test_a_scale_doubled_in_one_layer_of_one_rank_is_named(
    name: str,
    tensor: str,
    part: str,
    quantized: Requests,
    wide: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = quantized(Quant(_scheme(name), text=SHORT), model=wide)
    found = _judged(replace(asked, output=tmp_path / "whole")).quantisation
    assert found is not None
    assert found.gate.distance is not None
    assert found.gate.distance < 0.1
    # Another cache: nothing of the whole model is found there.
    scaled(monkeypatch, AT + tensor, 2, "rank1.safetensors")
    with pytest.raises(NumericsError, match=f"`{part}`: .* times the scheme's own error away") as caught:
        _judged(replace(asked, cache=tmp_path / "other"))
    parts = json.loads((tmp_path / "artifact.numerics.json").read_text())["parts"]
    assert [one["name"] for one in parts if one["distance"] > _scheme(name).tolerance.distance] == [part]
    assert str(tmp_path / f"artifact.{REPORT}") in caught.value.message
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("case", ["gptj", "gpt2", "starcoder"])
def test_other_layers_have_their_errors_too(case: str, quantized: Requests) -> None:
    """One norm for both parts, biases that every rank adds."""
    heard = Heard()
    found = _judged(quantized(Quant(_scheme("int8-weight")), case), heard).quantisation
    assert found is not None
    assert found.gate.worst.startswith("layers.")
    assert 0.999 < found.gate.cosine < 1
    assert [stage for stage, _ in heard.stages] == [
        "plan",
        "digest",
        "convert",
        "gate",
        "reference",
        "judge",
        "package",
    ]


def test_an_alpha_of_every_group_is_searched_for(quantized: Requests) -> None:
    found = _judged(quantized(Quant(_scheme("smoothquant"), alpha=None, text=SHORT))).quantisation
    assert found is not None
    assert {name.split(".", 2)[2] for name in found.alphas} == {"attn.o", "attn.q", "mlp.down", "mlp.gate"}
    assert set(found.alphas.values()) <= set(CANDIDATES)


def test_awq_is_searched_for_and_sharded(quantized: Requests, wide: str, tmp_path: Path) -> None:
    gates = []
    for tp in (1, 2):
        # in groups of 64: TensorRT-LLM would pad the 128 columns to 128 for each rank
        ask = quantized(Quant(_scheme("awq"), text=SHORT, group=64), tp=tp, model=wide, output=tmp_path / f"tp{tp}")
        made = _judged(ask)
        assert made.quantisation is not None
        gates.append(made.quantisation.gate)
    assert gates[0].kl == pytest.approx(gates[1].kl, rel=0.01)
    assert gates[0].perplexity == pytest.approx(gates[1].perplexity, rel=1e-3)
