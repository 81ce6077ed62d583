"""A really compiled artifact, its layers and its cache quantised: it verifies, and answers what its rank files say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import recipes
from compiler import Ask, BuildRequest, GenerationParams, build, load, verify
from compiler.ir.config import ModelConfig
from compiler.pipeline.against import source_logits
from compiler.pipeline.requests import PlanRequest
from compiler.quant.asked import Quant, Text
from compiler.quant.schemes import SCHEMES, Tolerance
from compiler.stages.numerics import THRESHOLDS
from compiler.stages.sides import log_probabilities, of_files
from compiler.targets import inductor

SMOOTH = replace(SCHEMES["smoothquant"], tolerance=Tolerance(perplexity=10, kl=10, cosine=0.9))


def test_a_quantised_artifact_verifies_and_answers(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoint, artifact = tiny_checkpoint("llama"), tmp_path / "artifact"
    quant = Quant(SMOOTH, cache="int8", text=Text(samples=4, length=32))
    ask = Ask(tp=2, dtype="float32", max_positions=128, max_batch=1, quant=quant)
    request = BuildRequest(model=str(checkpoint), recipes=recipes, ask=ask, cache=tmp_path / "cache", output=artifact)
    made = build(request).manifest
    assert made is not None
    assert made.numerics is not None
    assert made.numerics.reference == "the quantised decoder in float32"
    assert made.numerics.kl_median <= THRESHOLDS["float32"].kl_median

    expected = source_logits(artifact, PlanRequest(model=str(checkpoint), recipes=recipes))
    found = verify(artifact, expected=expected).numerics
    assert found is not None
    assert found.reference == "its source"
    assert made.numerics.kl_median < found.kl_median  # quantisation costs more than compiling

    with load(artifact) as model:
        (answer,) = model.generate(["The file is"], GenerationParams(max_new_tokens=8))
        prompt = model.encode("The file is")
    ids = np.array(prompt + [token.id for token in answer.tokens], np.int64)
    config, kernels = ModelConfig.from_json(made.model.config), inductor.kernels(inductor.options_of(made))
    assert made.segments is not None
    side = of_files(config, [artifact / name for name in made.segments.weights], kernels)
    logits = log_probabilities(side, config, ids)
    assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == [token.id for token in answer.tokens]
