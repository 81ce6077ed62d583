"""A really compiled artifact whose parts have schemes of their own: it verifies, and answers what its files say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import recipes
from compiler.api import Ask, BuildRequest
from compiler.numerics.verify import verify
from compiler.pipeline.build import build
from compiler.pipeline.request import PlanRequest
from compiler.pipeline.verify_source import source_logits
from compiler.quantization.request import Quant, Text
from compiler.quantization.schemes import AUTO, Tolerance
from tests.runtime.test_quantized import WIDE, _answers_what_its_files_say, cache
from tests.stand_in import StandIn
from tests.tiny import write_checkpoint

__all__ = ["cache"]


def test_a_mixed_artifact_verifies_and_answers(tmp_path: Path, cache: Path) -> None:
    checkpoint, artifact = write_checkpoint("llama", tmp_path / "model", dtype="float32", **WIDE), tmp_path / "artifact"

    def request(kl: float) -> BuildRequest:
        limits = Tolerance(perplexity=10, kl=kl, stream=10)
        quant = Quant(replace(AUTO, tolerance=limits), text=Text(samples=4, length=32))
        ask = Ask(tp=2, dtype="float32", max_positions=128, max_batch=1, quant=quant)
        return BuildRequest(
            model=str(checkpoint), recipes=recipes, ask=ask, cache=cache, output=artifact, force=True
        )  # fmt: skip

    measured = build(request(10.0), toolchain=StandIn()).manifest
    assert measured is not None
    assert measured.quantisation is not None
    assert measured.quantisation.mixture is not None
    table = measured.quantisation.mixture.table
    # The limit lets the last mixture but one pass, which is not uniform.
    assert len(table[-2].parts) > 1
    made = build(request((table[-2].kl + table[-1].kl) / 2)).manifest
    assert made is not None
    assert made.quantisation is not None
    assert made.quantisation.mixture is not None
    assert len(set(made.quantisation.mixture.parts.values())) > 1
    assert made.numerics is not None
    assert made.numerics.reference == "the quantised decoder in float32"
    _answers_what_its_files_say(made, artifact)
    found = verify(artifact, expected=source_logits(artifact, PlanRequest(model=str(checkpoint), recipes=recipes)))
    assert found.numerics is not None
    assert found.numerics.reference == "its source"
