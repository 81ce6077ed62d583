"""From a scheme to rank files: the `quant_algo` that runs it, and what the judge reads out of the files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

import recipes
from compiler.calibration import activations as calibrate
from compiler.calibration import scales as scale
from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.numerics.compare import compare
from compiler.pipeline.rank_files import convert
from compiler.quantization.request import Quant, scheme_of
from compiler.quantization.scale_tensors import scale_tensors
from compiler.targets.trtllm import schemes
from compiler.targets.trtllm.check import check
from compiler.targets.trtllm.options import PLAIN, TrtllmOptions
from compiler.targets.trtllm.runtime import judge_of
from compiler.targets.trtllm.target import CheckpointLayout
from tests.calibration.test_activations import SAMPLES, Opened, opened
from tests.published import CONFIGS
from tests.tiny import write_checkpoint

LAYOUT = CheckpointLayout()

Array = NDArray[np.float32]
FLAGS: dict[str, dict[str, bool]] = {
    "fine": {},
    "static": {"per_token": False},
    "coarse": {"per_channel": False},
    "coarse static": {"per_channel": False, "per_token": False},
}
ALGOS = {
    ("llama2-70b", "int8-weight", "fine"): "W8A16",
    ("llama2-70b", "int4-weight", "fine"): "W4A16_AWQ",
    ("llama2-70b", "awq", "fine"): "W4A16_AWQ",
    ("llama2-70b", "fp8", "fine"): "FP8",
    ("llama2-70b", "smoothquant", "fine"): "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    ("llama2-70b", "smoothquant", "static"): "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    ("llama2-70b", "smoothquant", "coarse"): "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
    ("llama2-70b", "smoothquant", "coarse static"): "W8A8_SQ_PER_TENSOR_PLUGIN",
    ("starcoder", "smoothquant", "fine"): "W8A8_SQ_PER_CHANNEL",
    ("gptj-6b", "smoothquant", "static"): "W8A8_SQ_PER_CHANNEL",
    ("qwen3-8b", "smoothquant", "fine"): "W8A8_SQ_PER_CHANNEL",
    ("mixtral-8x7b", "int8-weight", "fine"): "W8A16",
    ("mixtral-8x7b", "int4-weight", "fine"): "W4A16",
    ("mixtral-8x7b", "fp8", "fine"): "FP8",
}


def _quant(name: str, flags: str = "fine", kv: Any = "") -> Quant:
    given = FLAGS[flags] if name in ("smoothquant", "fp8") else {}
    return Quant(scheme_of(name, **given), cache=kv)


def _published(model: str) -> ModelConfig:
    hf = CONFIGS[model]
    return recipes.for_config(hf)[1].resolve(hf).model_config(hf)


@pytest.mark.parametrize(("case", "name", "flags"), ALGOS)
def test_the_algo_that_runs_a_scheme(case: str, name: str, flags: str) -> None:
    config = _published(case)
    quant, options = schemes.quantized(config, _quant(name, flags, "fp8"), replace(PLAIN, version="0.21.0"))
    assert options == TrtllmOptions(version="0.21.0", quant_algo=ALGOS[case, name, flags], kv_cache_quant_algo="FP8")
    # What an artifact says of itself leads to the same again.
    assert schemes.quantized(config, quant, options) == (quant, options)
    static = options.quant_algo in ("FP8", "W8A8_SQ_PER_CHANNEL")
    assert quant.scheme is not None
    assert not static or (quant.scheme.activation_scales == "tensor" and quant.calibrated)


@pytest.mark.parametrize(
    ("case", "name", "flags", "words", "remedy"),
    [
        (
            "mixtral-8x7b",
            "smoothquant",
            "fine",
            "no SmoothQuant for the experts",
            "`--quant fp8`.*`--quant int8-weight`",
        ),
        ("qwen1.5-moe-a2.7b", "awq", "fine", "no `awq` for the experts", "`--quant fp8`, `--quant int8-weight`"),
        ("starcoder2-7b", "smoothquant", "coarse", "only with one scale per channel", "`--no-per-channel`"),
    ],
)
def test_the_refusal_of_a_scheme_names_those_that_run(
    case: str, name: str, flags: str, words: str, remedy: str
) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        schemes.quantized(_published(case), _quant(name, flags), PLAIN)
    assert re.search(remedy, caught.value.hint)


_WIDE = {"hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}
SIZES: dict[str, dict[str, Any]] = {
    "llama": {**_WIDE, "hidden_size": 1024, "intermediate_size": 1024},  # groups of 128 are not padded at tp 8
    "mistral": {**_WIDE, "intermediate_size": 1024},
    "qwen2": {**_WIDE, "hidden_size": 1024, "intermediate_size": 1024},
    "starcoder": {"n_embd": 1024, "n_inner": 1024, "n_head": 8},
    "mixtral": {**_WIDE, "intermediate_size": 512},
}
BOUNDS = {"int8-weight": 0.01, "smoothquant": 0.04, "fp8": 0.3, "awq": 1.0, "int4-weight": 1.0}
"""Of the median KL divergence from the source. Models of the tests are not trained: these have no easy tokens."""


@dataclass(frozen=True)
class Calibrated:
    model: Opened
    maxima: dict[str, Array]
    expected: Array


@cache
def _calibrated(case: str, folder: Path) -> Calibrated:
    """In float32: what is measured is rounding to the scheme's format alone."""
    model = opened(write_checkpoint(case, folder / "model", dtype="float32", **SIZES[case]))
    model.calibrate(folder)
    expected = _judged(model, _written(model, None, Quant(), 1, folder / "plain"))
    return Calibrated(model, load_file(folder / calibrate.RESULT), expected)


def _written(model: Opened, maxima: dict[str, Array] | None, asked: Quant, tp: int, out: Path) -> Path:
    """A TensorRT-LLM checkpoint, as a build leaves it."""
    config, tensors, checkpoint, options = model.config, model.tensors, model.checkpoint, PLAIN
    if asked.requested:
        quant, options = schemes.quantized(config, asked, options)
        scaling = schemes.scaling(config, quant, options)
        if scale_tensors(config, tensors, scaling):
            out.mkdir(parents=True)
            scale.make_scales(config, tensors, checkpoint, out, scaling=scaling, maxima=maxima)
            tensors, checkpoint = scale.with_scales(tensors, checkpoint, out / scale.RESULT)
    check(config, tp, options)
    convert(LAYOUT.rank_plans(config, tp, tensors, "F32", options), checkpoint, out, crc=None)
    for name, data in LAYOUT.files(config, tp, "float32", options).items():
        (out / name).write_bytes(data)
    return out


def _judged(model: Opened, folder: Path) -> Array:
    return judge_of(folder, model.config, 1 << 30).logits(SAMPLES.ids[0])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schemes")


MODES = [
    *(("llama", name, "fine", "") for name in ("int8-weight", "int4-weight", "awq", "fp8")),
    *(("llama", "smoothquant", flags, "") for flags in FLAGS),
    ("llama", "smoothquant", "fine", "int8"),
    ("mistral", "fp8", "fine", "fp8"),
    ("qwen2", "smoothquant", "fine", "int8"),
    ("qwen2", "awq", "fine", ""),
    ("starcoder", "smoothquant", "fine", "int8"),
    ("starcoder", "awq", "fine", ""),
    ("starcoder", "fp8", "fine", "fp8"),
    ("mixtral", "fp8", "fine", "int8"),
    ("mixtral", "int8-weight", "fine", ""),
]


@pytest.mark.parametrize(("case", "name", "flags", "kv"), MODES)
def test_logits_of_the_files_are_near_the_source(
    case: str, name: str, flags: str, kv: str, folders: Path, tmp_path: Path
) -> None:
    made = _calibrated(case, folders / case)
    found = {}
    for tp in (1, 2, 8):
        folder = _written(made.model, made.maxima, _quant(name, flags, kv), tp, tmp_path / f"{tp}")
        found[tp] = _judged(made.model, folder)
        assert compare(made.expected, found[tp]).kl_median < BOUNDS[name]
        section = json.loads((folder / "config.json").read_text())["quantization"]
        assert section["kv_cache_quant_algo"] == (kv.upper() or None)
    # Ranks of one model are one model, but for what a rank rounds by what it sees: a part of a token, or of a row.
    if name not in ("smoothquant", "int8-weight"):
        for tp in (2, 8):
            assert compare(found[1], found[tp]).cosine > 0.9999


@pytest.mark.parametrize("part", ["mlp.down.matrix_accumulated", "attn.o.input_steps", "attn.q.output_scale"])
def test_a_doubled_scale_is_seen(part: str, folders: Path, tmp_path: Path) -> None:
    """Through the files: the canonical scale is doubled behind the rounding's back."""
    made = _calibrated("llama", folders / "llama")
    config, quant = made.model.config, _quant("smoothquant", "coarse static")
    quant, options = schemes.quantized(config, quant, PLAIN)
    scale.make_scales(
        config, made.model.tensors, made.model.checkpoint, tmp_path,
        scaling=schemes.scaling(config, quant, options), maxima=made.maxima,
    )  # fmt: skip
    tensors, checkpoint = scale.with_scales(made.model.tensors, made.model.checkpoint, tmp_path / scale.RESULT)
    source = checkpoint.tensors[f"scales/layers.1.{part}"]
    content = bytearray((tmp_path / scale.RESULT).read_bytes())
    value = np.frombuffer(content, np.float32, 1, source.offset) * np.float32(2)
    content[source.offset : source.offset + 4] = value.tobytes()
    (tmp_path / scale.RESULT).write_bytes(content)
    convert(LAYOUT.rank_plans(config, 2, tensors, "F32", options), checkpoint, tmp_path, crc=None)
    for name, data in LAYOUT.files(config, 2, "float32", options).items():
        (tmp_path / name).write_bytes(data)
    assert compare(made.expected, _judged(made.model, tmp_path)).kl_median > 2 * BOUNDS["smoothquant"]


def test_scales_of_the_cache_cover_what_is_kept(folders: Path, tmp_path: Path) -> None:
    made = _calibrated("llama", folders / "llama")
    folder = _written(made.model, made.maxima, _quant("int8-weight", kv="int8"), 2, tmp_path / "out")
    for rank in range(2):
        found = load_file(folder / f"rank{rank}.safetensors")
        for layer in range(made.model.config.layers):
            kept = max(made.maxima[f"layers.{layer}.attn.{which}.cached"].max() for which in "kv")
            (own,) = found[f"transformer.layers.{layer}.attention.kv_cache_scaling_factor"]
            assert own == pytest.approx(kept / 127)
