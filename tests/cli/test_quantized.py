"""Quantization on the command line: options that fit together or not, and LMI's properties."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compiler.cli import main
from compiler.cli.options import GateOptions, QuantOptions, quant_of, text_of
from compiler.errors import ToolchainMissing, UsageError
from compiler.lmi.from_properties import request_of_properties
from compiler.pipeline import devices
from compiler.pipeline.estimate import CALIBRATING
from compiler.quantization.request import Quant
from compiler.quantization.schemes import AUTO, SCHEMES
from compiler.targets.inductor.target import SegmentCompiler
from tests.stand_in import StandIn

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(SegmentCompiler, "toolchain", lambda _self: StandIn("inductor"))

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["lmi-compile", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return call


def _asked(**options: Any) -> Quant:
    return _quant(QuantOptions(**options))


def _quant(options: QuantOptions, image: str = "") -> Quant:
    file = options.from_properties
    return quant_of(options, GateOptions(), request_of_properties(file, image, text_of(options)) if file else None)


def test_defaults_are_per_channel_per_token_and_a_half() -> None:
    found = _asked(quant="smoothquant")
    assert found.scheme is not None
    assert (found.scheme.weight_scales, found.scheme.activation_scales, found.alpha) == ("channel", "token", 0.5)
    coarse = _asked(quant="smoothquant", per_token=False, per_channel=False, smoothquant_alpha="0.8").scheme
    assert coarse is not None
    assert (coarse.weight_scales, coarse.activation_scales) == ("tensor", "tensor")
    assert _asked(quant="smoothquant", smoothquant_alpha="auto").alpha is None
    assert _asked() == Quant()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quant": "smoothquant", "smoothquant_alpha": "1.5"}, "from 0 to 1"),
        ({"quant": "smoothquant", "smoothquant_alpha": "-0.1"}, "from 0 to 1"),
        ({"quant": "smoothquant", "smoothquant_alpha": "much"}, "from 0 to 1"),
        ({"quant": "int8-weight", "smoothquant_alpha": "0.5"}, "needs a scheme with SmoothQuant"),
        ({"smoothquant_alpha": "0.5"}, "needs a scheme with SmoothQuant"),
        ({"quant": "int8-weight", "per_token": True}, "found `int8-weight`"),
        ({"per_channel": False}, "found `none`"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        _asked(**options)
    assert caught.value.hint


def _properties(folder: Path, **entries: str) -> Path:
    file = folder / "serving.properties"
    file.write_text("engine=MPI\n" + "".join(f"option.{name}={value}\n" for name, value in entries.items()))
    return file


def test_lmi_spells_it_otherwise(tmp_path: Path) -> None:
    file = _properties(
        tmp_path, quantize="smoothquant", smoothquant_alpha="0.7", smoothquant_per_token="true",
        smoothquant_per_channel="true", multi_query_mode="true", calib_size="64",
    )  # fmt: skip
    found = _asked(from_properties=file)
    assert found == _asked(quant="smoothquant", smoothquant_alpha="0.7", per_token=True, per_channel=True,
                           calibration_samples=64)  # fmt: skip
    newer = tmp_path / "newer"
    newer.mkdir()
    file = _properties(newer, quant_algo="W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", smoothquant_val="0.7")
    found = _quant(QuantOptions(from_properties=file), "0.33.0")
    assert found == _asked(quant="smoothquant", smoothquant_alpha="0.7", per_token=True, per_channel=True)


def test_flags_that_are_left_out_mean_per_tensor_and_a_warning(
    run: Run, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    file = _properties(tmp_path, quantize="smoothquant")
    found = _asked(from_properties=file)
    assert found.scheme is not None
    assert (found.scheme.weight_scales, found.scheme.activation_scales, found.alpha) == ("tensor", "tensor", 0.8)
    code, _, err = run("plan", "--model", tiny_checkpoint("llama"), "--from-properties", file)
    assert code == 0
    assert "from 54.5 to 29.4 in MMLU" in err


def test_bad_properties_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        _asked(from_properties=tmp_path / "none")
    file = _properties(tmp_path, quantize="smoothquant")
    with pytest.raises(UsageError, match="already defines quant, per_token"):
        _asked(from_properties=file, quant="fp8", per_token=True)
    assert _asked(from_properties=_properties(tmp_path, quantize="awq", awq_block_size="64")).group == 64
    with pytest.raises(UsageError, match="needs a scheme with one scale per group"):
        _asked(quant="fp8", group_size=64)
    with pytest.raises(UsageError, match="has no property"):
        _asked(from_properties=_properties(tmp_path, smoothquant_alhpa="0.5"))


def test_a_plan_shows_every_choice(run: Run, tiny_checkpoint: Callable[[str], Path]) -> None:
    words = ["plan", "--model", tiny_checkpoint("llama"), "--quant", "smoothquant", "--smoothquant-alpha", "0.8"]
    code, out, _ = run(*words)
    assert code == 0
    assert "smoothquant: weights int8 per channel, activations int8 per token, alpha 0.8" in out
    assert "--quant awq" in out
    assert "calibrating on at most" in out
    facts = json.loads(run(*words, "--json")[1])
    assert facts["quantisation"]["alpha"] == 0.8
    assert {one["option"]: bool(one["refused"]) for one in facts["quantisations"]}["--quant smoothquant"] is False


def test_a_build_that_loses_too_much_ends_with_its_own_code(
    run: Run, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    words = ["build", "--model", tiny_checkpoint("llama"), "--quant", "int8-weight", "--output", tmp_path / "artifact"]
    code, out, err = run(*words, "--max-perplexity-increase", "0", "--json")
    assert (code, out) == (8, "")
    assert "artifact.numerics.html" in err
    assert not (tmp_path / "artifact").exists()
    code, out, _ = run(*words, "--accept-numerics", "--json")
    assert code == 0
    facts = json.loads(out)["quantisation"]
    assert (facts["scheme"], facts["gate"]["report"]) == ("int8-weight", "numerics.html")
    assert run("scan", tmp_path / "artifact")[0] == 0
    shown = run("inspect", tmp_path / "artifact")[1]
    assert "int8-weight: weights int8 per channel, activations not quantized" in shown


def test_calibration_on_a_gpu_is_planned_everywhere_and_built_where_there_is_one(
    run: Run, tiny_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cuda_capability", lambda: None)
    words = ["--model", tiny_checkpoint("llama"), "--quant", "smoothquant", "--proof-device", "cuda"]
    assert run("plan", *words)[0] == 0
    code, out, err = run("build", *words, "--output", tmp_path / "artifact")
    assert (code, out) == (ToolchainMissing.exit_code, "")
    assert "leave `--proof-device` out" in err
    assert list(tmp_path.iterdir()) == []


def test_convert_quantizes_without_a_gate(run: Run, tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    words = ["convert", "--model", tiny_checkpoint("llama"), "--quant", "int8-weight", "--output", tmp_path / "ranks"]
    code, _, err = run(*words)
    assert code == 0
    assert "scales: int8-weight" in err
    assert (tmp_path / "ranks" / "weights" / "rank0.safetensors").exists()


@pytest.mark.parametrize("scheme", [*SCHEMES, AUTO.name])
def test_every_scheme_is_planned_with_the_time_of_its_calibration(
    scheme: str, run: Run, tiny_checkpoint: Callable[[str], Path]
) -> None:
    code, out, err = run("plan", "--model", tiny_checkpoint("llama"), "--quant", scheme, "--json")
    assert code == 0, err
    facts = json.loads(out)
    calibrated = scheme == AUTO.name or SCHEMES[scheme].calibrated
    took = sum(stage["seconds"] for stage in facts["stages"] if stage["stage"] in CALIBRATING)
    assert (facts.get("calibration_seconds", 0.0), took > 0) == (pytest.approx(took), calibrated)
