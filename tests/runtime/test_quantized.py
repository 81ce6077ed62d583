"""Really compiled artifacts, layers and caches quantized: they verify, and answer what their rank files say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recipes
from compiler.api import Ask, BuildRequest, GenerationParams, build, load
from compiler.artifact.manifest import Manifest
from compiler.model.config import ModelConfig
from compiler.numerics.compare import THRESHOLDS
from compiler.numerics.gate.sides import log_probabilities, of_files
from compiler.numerics.verify import verify
from compiler.pipeline.request import PlanRequest
from compiler.pipeline.verify_source import source_logits
from compiler.quantization.request import Quant, Text, scheme_of
from compiler.quantization.schemes import Scheme, Tolerance
from compiler.runtime.section import Segments
from compiler.targets.inductor.schemes import kernels as kernels_of
from compiler.targets.inductor.target import TARGET
from tests.tiny import write_checkpoint

LOOSE = Tolerance(perplexity=10, kl=10, stream=10)
WIDE: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "num_hidden_layers": 2,
}  # fmt: skip
"""Groups of int4 fit its rows."""


@pytest.fixture(scope="module")
def cache(session_folder: Path) -> Path:
    """The cache of `tiny_artifact`: what does not depend on the scheme is compiled once."""
    return session_folder / "cache"


def _built(
    checkpoint: Path,
    scheme: Scheme | None,
    kv: str,
    artifact: Path,
    cache: Path,
    dtype: str = "float32",
    tp: int = 2,
    head: str = "",
) -> Manifest:
    assert scheme is not None
    quant = Quant(replace(scheme, tolerance=LOOSE), cache=kv, text=Text(samples=4, length=32), head=head)
    ask = Ask(tp=tp, dtype=dtype, max_positions=128, max_batch=1, quant=quant)
    request = BuildRequest(model=str(checkpoint), recipes=recipes, ask=ask, cache=cache, output=artifact)
    made = build(request).manifest
    assert made is not None
    assert made.numerics is not None
    assert made.numerics.reference == "the quantised decoder in float32"
    assert made.numerics.kl_median <= THRESHOLDS["float16" if dtype == "float32" else dtype].kl_median
    assert isinstance(made.section, Segments)
    assert made.section.cache == kv
    return made


def _answers_what_its_files_say(made: Manifest, artifact: Path) -> None:
    with load(artifact) as model:
        (answer,) = model.generate(["The file is"], GenerationParams(max_new_tokens=8))
        prompt = model.encode("The file is")
    ids = np.array(prompt + [token.id for token in answer.tokens], np.int64)
    config, kernels = ModelConfig.from_json(made.model.config), kernels_of(TARGET.packager.options_of(made))
    assert isinstance(made.section, Segments)
    side = of_files(config, [artifact / name for name in made.section.weights], kernels)
    (logits,) = log_probabilities(side, config, [ids])
    assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == [token.id for token in answer.tokens]


def test_a_quantized_artifact_verifies_and_answers(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, cache: Path
) -> None:
    """Layers, cache and a head that the model shares with its embedding."""
    checkpoint, artifact = tiny_checkpoint("llama/tied"), tmp_path / "artifact"
    made = _built(checkpoint, scheme_of("smoothquant"), "int8", artifact, cache, head="int8")
    expected = source_logits(artifact, PlanRequest(model=str(checkpoint), recipes=recipes))
    found = verify(artifact, expected=expected).numerics
    assert found is not None
    assert found.reference == "its source"
    assert made.numerics is not None
    assert made.numerics.kl_median < found.kl_median  # quantisation costs more than compiling
    _answers_what_its_files_say(made, artifact)


def test_float8_with_fixed_scales_verifies_and_answers(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, cache: Path
) -> None:
    scheme = scheme_of("fp8", per_token=False, per_channel=False)
    made = _built(tiny_checkpoint("llama"), scheme, "fp8", tmp_path / "artifact", cache)
    assert isinstance(made.section, Segments)
    assert made.section.products == "fp8_per_tensor"
    _answers_what_its_files_say(made, tmp_path / "artifact")


def test_awq_of_experts_verifies_and_answers(tmp_path: Path, cache: Path) -> None:
    """In bfloat16, where products are those of `native/`; the verdict above is theirs too."""
    checkpoint = write_checkpoint("mixtral", tmp_path / "model", dtype="float32", **WIDE)
    made = _built(checkpoint, scheme_of("awq"), "", tmp_path / "artifact", cache, "bfloat16", 1)
    assert made.quantisation is not None
    assert (made.quantisation.scheme, made.quantisation.search) == ("awq", "awq")
    assert isinstance(made.section, Segments)
    assert made.section.products == "grouped"
    with load(tmp_path / "artifact") as model:
        (answer,) = model.generate(["The file is"], GenerationParams(max_new_tokens=8))
    assert len(answer.tokens) == 8


def test_narrow_groups_rounded_with_feedback_verify_and_answer(tmp_path: Path, cache: Path) -> None:
    """Groups of 64, by torch's products: columns of attention on a rank are 64."""
    narrow = WIDE | {"hidden_size": 128, "head_dim": 32}
    checkpoint = write_checkpoint("llama", tmp_path / "model", dtype="float32", **narrow)
    made = _built(checkpoint, scheme_of("gptq"), "", tmp_path / "artifact", cache, "bfloat16")
    assert made.quantisation is not None
    assert made.quantisation.group == 64
    assert isinstance(made.section, Segments)
    assert made.section.products == "grouped_64"
    with load(tmp_path / "artifact") as model:
        (answer,) = model.generate(["The file is"], GenerationParams(max_new_tokens=8))
    assert len(answer.tokens) == 8
