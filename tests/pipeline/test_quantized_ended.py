"""Quantized builds that end early: unusable texts and weights, a full disk, SIGKILL; and how they resume."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.artifact.manifest import load_manifest
from compiler.errors import (
    CalibrationError,
    CheckpointError,
    DiskFullError,
    RefusedError,
    TokenizerError,
)
from compiler.pipeline.build import build
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES
from tests.builds import Heard, kill_when_reached, leftovers, tree
from tests.calibration.test_activations import poisoned
from tests.pipeline.test_quantized import INT8, SHORT, SMOOTH, Requests, built
from tests.stand_in import StandIn


def test_a_disk_that_is_full_of_activations_ends_the_build_and_room_lets_it_go_on(
    quantized: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, real, fallen = quantized(Quant(SMOOTH, text=SHORT)), os.write, 0

    def full(fd: int, data: Any) -> int:
        nonlocal fallen
        if f"{os.sep}x-2" in str(Path(f"/proc/self/fd/{fd}").readlink()):
            fallen += 1
            raise OSError(errno.ENOSPC, "no space left on device")
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskFullError, match="no space for activations") as caught:
            build(request, toolchain=StandIn())
    assert fallen
    assert "LMI_COMPILE_CACHE" in caught.value.hint
    assert not request.output.exists()
    assert leftovers(tmp_path) == []
    assert build(request, toolchain=StandIn()).made["convert"] == 1


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("empty.txt", "", CalibrationError, "gives 0 tokens"),
        ("short.txt", "A few words.", CalibrationError, "expected 64 at least"),
        ("ids.jsonl", json.dumps({"input_ids": [1] * 99 + [100_000]}), CalibrationError, "token id 100000"),
        ("lines.jsonl", "{}", CalibrationError, "expected `text`"),
    ],
)
def test_a_text_that_is_none_ends_the_build_before_any_work(
    name: str, content: str, error: type[Exception], said: str, quantized: Requests, tmp_path: Path
) -> None:
    text = tmp_path / name
    text.write_text(content)
    heard = Heard()
    with pytest.raises(error, match=said):
        build(quantized(Quant(SMOOTH, text=replace(SHORT, file=text))), heard, toolchain=StandIn())
    assert [stage for stage, _ in heard.stages] == ["plan"]
    assert not (tmp_path / "artifact").exists()


def test_text_needs_a_tokenizer_and_ids_do_not(
    quantized: Requests, tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in tiny_checkpoint("llama").iterdir():
        if "token" not in file.name:
            (bare / file.name).symlink_to(file)
    with pytest.raises(TokenizerError, match="tokenizer; found none"):
        build(quantized(Quant(SMOOTH, text=SHORT), model=str(bare)), toolchain=StandIn())
    ids = tmp_path / "ids.jsonl"
    ids.write_text("".join(json.dumps({"input_ids": list(range(i, i + 32))}) + "\n" for i in range(8)))
    made = built(quantized(Quant(SMOOTH, text=replace(SHORT, file=ids)), model=str(bare)))
    assert made.quantisation is not None
    assert made.quantisation.calibration is not None
    assert made.quantisation.calibration.text == "ids.jsonl"


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_before_rounding(
    value: float, quantized: Requests, tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    folder = poisoned(tiny_checkpoint("llama"), tmp_path / "poisoned", name, value)
    for quant in (Quant(INT8), Quant(SMOOTH, text=SHORT)):
        with pytest.raises(CheckpointError, match=r"NaN or infinite .*layers\.1\.mlp\.up_proj"):
            build(quantized(quant, model=str(folder)), toolchain=StandIn())
    assert not (tmp_path / "artifact").exists()


def test_the_refusal_of_a_scheme_names_those_that_the_target_runs(quantized: Requests) -> None:
    eight = replace(SCHEMES["int4-weight"], name="int4-int8", activations="int8", activation_scales="token")
    with pytest.raises(RefusedError, match="does not run `int4-int8` with one activation scale per token") as caught:
        build(quantized(Quant(eight)), toolchain=StandIn())
    assert caught.value.hint


_KILLED = """
import sys, time
from pathlib import Path
import recipes
from compiler.pipeline.build import build
from compiler.pipeline.request import Ask, BuildRequest
from tests.builds import Heard
from tests.pipeline.test_quantized import SHORT, SMOOTH, Quant
from tests.stand_in import StandIn
class Slow(Heard):
    def progress(self, done, total, unit):
        if unit == "tokens x layers" and done > total // 2:
            print("reached", flush=True)
            time.sleep(60)
build(BuildRequest(model=sys.argv[1], recipes=recipes, ask=Ask(tp=2, max_batch=2, quant=Quant(SMOOTH, text=SHORT)),
      output=Path(sys.argv[2]) / "artifact", cache=Path(sys.argv[2]) / "cache"), Slow(), toolchain=StandIn())
"""


def test_a_build_killed_while_it_calibrates_goes_on(quantized: Requests, tmp_path: Path) -> None:
    request = quantized(Quant(SMOOTH, text=SHORT))
    kill_when_reached(_KILLED, request.model, str(tmp_path))
    assert not (tmp_path / "artifact").exists()
    totals = set()

    class Counting(Heard):
        def progress(self, *told: Any) -> None:
            if self.stage == "calibrate":
                totals.add(told[1])

    build(request, Counting(), toolchain=StandIn())
    assert max(totals) < 128 * 3  # not from the first layer
    assert load_manifest(request.output).quantisation is not None
    whole = replace(request, output=tmp_path / "whole", cache=tmp_path / "cache2")
    build(whole, toolchain=StandIn())
    assert tree(request.output) == tree(whole.output)
