"""Four-bit builds: groups as wide as a rank's columns allow, and rounding with feedback."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from compiler.artifact.manifest import PROVENANCE
from compiler.artifact.quantization import REPORT, quant_of
from compiler.calibration import feedback
from compiler.calibration.feedback import SCALES, WEIGHTS, compensate
from compiler.cli.text import quant_text
from compiler.errors import MemoryCeilingError, RefusedError
from compiler.numerics.verify import check_layout
from compiler.pipeline.build import build
from compiler.pipeline.estimate import Rates, stage_seconds
from compiler.pipeline.request import BuildRequest
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES
from compiler.runtime.section import Segments, check_artifact
from tests.builds import Heard
from tests.calibration.test_activations import SAMPLES, opened
from tests.pipeline.test_quantized import LOOSE, SHORT, assert_repeats_its_scheme, built
from tests.stand_in import StandIn
from tests.tiny import write_checkpoint

Requests = Callable[..., BuildRequest]
INT4, GPTQ = (replace(SCHEMES[name], tolerance=LOOSE) for name in ("int4-weight", "gptq"))
NARROW = {
    "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 256,
}  # fmt: skip
"""Columns of attention on a rank of tp 2: 64."""


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint("llama", tmp_path_factory.mktemp("narrow") / "model", dtype="float32", **NARROW))


@pytest.mark.parametrize(("tp", "asked", "size", "product"), [
    (1, None, 128, "grouped"), (2, None, 64, "grouped_64"), (4, None, 32, "grouped_32"), (1, 32, 32, "grouped_32"),
])  # fmt: skip
def test_groups_are_the_widest_that_divide_or_those_asked_for(
    tp: int, asked: int | None, size: int, product: str, quantized: Requests, narrow: str, tmp_path: Path
) -> None:
    made = built(quantized(Quant(INT4, group=asked), tp=tp, model=narrow))
    found = made.quantisation
    assert found is not None
    assert found.group == quant_of(found).group_size == size
    assert f"weights int4 per group of {size}" in quant_text(quant_of(found))
    assert isinstance(made.section, Segments)
    assert made.section.products == product
    assert_repeats_its_scheme(made)
    check_layout(made, tmp_path / "artifact")
    tensors = load_file(tmp_path / "artifact" / made.section.weights[-1])
    assert tensors["layers.1.attn.o.scale"].shape == (128, 128 // tp // size)
    assert tensors["layers.1.mlp.down.scale"].shape == (128, 256 // tp // size)
    assert f"groups of {size}" in (tmp_path / "artifact" / REPORT).read_text()
    command = json.loads((tmp_path / "artifact" / PROVENANCE).read_text())["predicate"]["buildDefinition"]
    assert f"--group-size {size}" in " ".join(command["externalParameters"]["command"])


def test_tensorrt_llm_reads_the_size_of_groups_from_its_config(
    quantized: Requests, narrow: str, tmp_path: Path
) -> None:
    made = build(replace(quantized(Quant(INT4), model=narrow), target="trtllm", until="judge")).manifest
    assert made is not None
    config = json.loads((tmp_path / "artifact" / "checkpoint" / "config.json").read_text())
    assert config["quantization"]["group_size"] == 64
    assert_repeats_its_scheme(made)  # by the judge, which reads the files in its own way
    check_layout(made, tmp_path / "artifact")


@pytest.mark.parametrize(
    ("target", "tp", "group", "message", "hint"),
    [
        ("trtllm", 4, None, "groups of 128 or 64; found attention width of a rank 32", "`--tp 2` divides"),
        ("trtllm", 1, 32, "takes groups of 128 or 64 weights; found 32", "leave `--group-size` out"),
        ("inductor", 1, 48, "takes groups of 128 or 64 or 32 or 16 weights; found 48", "leave `--group-size` out"),
    ],
)
def test_groups_that_a_target_cannot_have_are_refused_with_what_works(
    target: str, tp: int, group: int | None, message: str, hint: str, quantized: Requests, narrow: str
) -> None:
    request = quantized(Quant(INT4, group=group), tp=tp, model=narrow)
    with pytest.raises(RefusedError, match=message) as caught:
        build(replace(request, target=target))
    assert hint in caught.value.hint


def test_feedback_lowers_the_error_and_the_files_repeat_it(quantized: Requests, narrow: str, tmp_path: Path) -> None:
    heard = Heard()
    result = build(quantized(Quant(GPTQ, text=SHORT), model=narrow), heard, toolchain=StandIn())
    made = check_artifact(result.output, by="sha256")
    assert [need.stage for need in result.plan.needs][:3] == ["feedback", "convert", "gate"]
    assert stage_seconds(result.plan, Rates(1e9, 1e9, 1e9))["feedback"] > 0
    assert [stage for stage, _ in heard.stages][:5] == ["plan", "digest", "feedback", "scales", "convert"]
    share = int(dict(heard.stages)["feedback"].split("error ")[1].split(" %")[0].split("%")[0])
    assert share < 95
    assert any("128 calibration tokens are fewer than the 256 inputs" in warning for warning in heard.warnings)
    assert made.quantisation is not None
    assert (made.quantisation.scheme, made.quantisation.search, made.quantisation.group) == ("gptq", "gptq", 64)
    assert made.quantisation.calibration is not None
    assert_repeats_its_scheme(made)
    check_layout(made, tmp_path / "artifact")


@pytest.mark.parametrize("case", ["mixtral", "gpt2", "deepseek_v2"])
def test_a_killed_run_goes_on_and_gives_the_same_weights(
    case: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, scheme = opened(tiny_checkpoint(case)), replace(GPTQ, size=8)

    def run(name: str, progress: Any = None) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        compensate(
            model.config, model.tensors, model.checkpoint, SAMPLES, scheme,
            work=tmp_path / name / "work", out=tmp_path / name, progress=progress,
        )  # fmt: skip

    def stop(_done: int, _total: int) -> None:
        raise InterruptedError

    run("whole")
    with pytest.raises(InterruptedError):
        run("stopped", stop)
    done: list[tuple[int, int]] = []
    run("stopped", lambda *call: done.append(call))
    assert len(done) == model.config.layers - 1
    for file in (WEIGHTS, SCALES):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes()
    assert not list((tmp_path / "stopped" / "work").iterdir())


def test_second_moments_count_in_the_ceiling_of_memory(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    model = opened(tiny_checkpoint("llama"))
    with pytest.raises(MemoryCeilingError, match="second moments of its inputs; the ceiling is 100,000"):
        feedback.compensate(
            model.config, model.tensors, model.checkpoint, SAMPLES, replace(GPTQ, size=8),
            work=tmp_path / "work", out=tmp_path, max_memory=100_000,
        )  # fmt: skip
    assert np.all([not one.is_file() for one in tmp_path.iterdir()])
