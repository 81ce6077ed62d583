"""vLLM itself: the shards that it saves, and engines that load ours (`scripts/test-vllm`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recipes
from compiler.artifact.manifest import load_manifest
from compiler.pipeline.build import build
from compiler.pipeline.request import Ask, BuildRequest
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.runner import judge_of
from tests.quantization import foreign
from tests.targets.vllm.golden_cases import CASES, GOLDEN, TPS, folder_of, found_in, write
from tests.targets.vllm.read_back import PROMPT
from tests.targets.vllm.real_bakes import MARKS
from tests.tiny import write_checkpoint

HERE = Path(__file__).parent
PYTHON = os.environ.get("LMI_COMPILE_VLLM_PYTHON", "")
MEDIANS = {"none": 0.05, "smoothquant": 0.5, "fp8": 0.5, "int4-weight": 0.1, "awq": 0.1}
"""Largest median difference of a log probability, in nats: the engine computes in bfloat16, and the sharp logits of a
random model widen roundings. Measured: 0.03, 0.06 (with AVX512; 0.23 with AVX2 alone, whose products of int8 saturate),
0.24; a wrong matrix gives several nats.
"""
pytestmark = MARKS


def run(script: str, *arguments: str) -> str:
    """Output of a script of this folder, run by the interpreter that has vLLM."""
    line = [PYTHON, str(HERE / script), *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_vllm_saves_the_shards_of_golden_json(tmp_path: Path) -> None:
    models = [tmp_path / "models" / folder_of(case) for case in CASES]
    for case, folder in zip(CASES, models, strict=True):
        write(case, folder)
    for tp in TPS:
        run("save_state.py", str(tp), str(tmp_path), *map(str, models))
    assert found_in(tmp_path) == json.loads(GOLDEN.read_bytes())["digests"]


@pytest.mark.parametrize("scheme", MEDIANS)
def test_an_engine_that_loads_our_shards_gives_the_judge_s_log_probabilities(scheme: str, tmp_path: Path) -> None:
    """Heads of 32 are the narrowest that vLLM's CPU kernels take."""
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 32}
    output, model = tmp_path / scheme, write_checkpoint("llama", tmp_path / "model", **sizes)
    quant = Quant(SCHEMES.get(scheme), accept=True)
    request = BuildRequest(
        model=str(model),
        recipes=recipes,
        target="vllm",
        ask=Ask(quant=quant, options=VllmOptions(weights="shards")),
        output=output,
        cache=tmp_path / "cache",
        until="judge",
    )
    build(request)
    assert difference(output, tmp_path) < MEDIANS[scheme]


def test_an_engine_that_loads_the_integers_of_a_gptq_checkpoint_gives_the_judge_s_log_probabilities(
    tmp_path: Path,
) -> None:
    foreign.quantized(tmp_path / "model", "gptq")
    request = BuildRequest(
        model=str(tmp_path / "model"),
        recipes=recipes,
        target="vllm",
        ask=Ask(quant=Quant(SCHEMES["int4-weight"], accept=True), options=VllmOptions(weights="shards")),
        output=tmp_path / "gptq",
        cache=tmp_path / "cache",
        until="judge",
    )
    build(request)
    assert difference(tmp_path / "gptq", tmp_path) < MEDIANS["int4-weight"]


def difference(artifact: Path, folder: Path) -> float:
    """Median difference, in nats, between log probabilities of an engine that loads `artifact` and the judge's."""
    run("read_back.py", str(folder), str(artifact))
    found = np.array(json.loads((folder / f"{artifact.name}.json").read_bytes()))
    config = load_manifest(artifact).config
    logits = judge_of(artifact, config, 1 << 30).logits(np.array(PROMPT)).astype(np.float64)
    highest = logits.max(-1, keepdims=True)
    every = logits - highest - np.log(np.exp(logits - highest).sum(-1, keepdims=True))
    expected = every[np.arange(len(PROMPT) - 1), PROMPT[1:]]
    median = float(np.median(np.abs(found - expected)))
    print(f"{artifact.name}: {median:.3f} nats")
    return median
