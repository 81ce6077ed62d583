"""Quantized rank files, read by TensorRT-LLM's names and semantics, give the logits of the decoder with rounded weights
and rounded inputs; and a mistake in a scale does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from compiler.errors import ArtifactError
from compiler.model.config import ModelConfig
from compiler.model.lazy import read, whole
from compiler.model.roles import TensorId, axis_sizes, model_tensors, shape_of
from compiler.quantization.formats import fp8
from compiler.targets.trtllm.config import checkpoint_config
from compiler.targets.trtllm.judge_math import as_e4m3, e4m3_values
from compiler.targets.trtllm.judge_model import RankReader
from compiler.targets.trtllm.judge_quant import experts
from compiler.targets.trtllm.layout import layouts
from compiler.targets.trtllm.linear import STORED
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.read import RankTensors
from tests.targets.trtllm.models import CASES, DIM, HEADS, TOKENS, tensors_of
from tests.targets.trtllm.quantized import DTYPES, Quantized, quantize, ranks_of, stored_ranks_of
from tests.targets.trtllm.ranks import logits

Array = NDArray[np.float32]
NATIVE = "W8A8_SQ_PER_CHANNEL"
FINE = "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"
STATIC = "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN"
COARSE = "W8A8_SQ_PER_TENSOR_PLUGIN"
WIDE = replace(CASES["llama"].config, hidden=128, head_dim=64, rotary_dim=64, ffn=512)
"""AWQ wants 128 columns of every matrix on every rank."""


@cache
def _model(name: str) -> tuple[ModelConfig, Mapping[TensorId, Array]]:
    if name != "wide":
        # Experts of unlike magnitude, so that their scales are unlike.
        return CASES[name].config, {
            t: x * np.linspace(1, 2, len(x), dtype=np.float32)[:, None, None] if t.role == "moe.down" else x
            for t, x in tensors_of(name)[0].items()
        }
    sizes, generator = axis_sizes(WIDE), np.random.default_rng(5)
    shapes = {t: shape_of(t, sizes) for t in model_tensors(WIDE)}
    noise: dict[TensorId, Any] = {t: generator.standard_normal(shape, np.float32) for t, shape in shapes.items()}
    return WIDE, {t: 1 + x / 5 if t.role.endswith("norm") else x / np.float32(8) for t, x in noise.items()}


@cache
def _quantized(name: str, tp: int, options: TrtllmOptions) -> Quantized:
    return quantize(*_model(name), options, tp)


def _judged(name: str, ranks: list[dict[str, Array]], tp: int, options: TrtllmOptions) -> Array:
    config = _model(name)[0]
    content = checkpoint_config(config, tp, "float32", options)
    return logits(content, ranks, TOKENS, [kind.window for kind in config.layer_kinds])


def _differs(found: Array, expected: Array) -> bool:
    """Sums of two libraries differ in their last bit, which now and then is what rounds an input up or down: one such
    step, and what follows from it, moves logits by up to two hundredths. Without one they agree to a millionth.
    """
    error = np.abs(found - expected) / np.abs(expected).max()
    return bool(error.max() > 3e-2 or np.median(error) > 5e-3)


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize(
    ("name", "algo", "kv"),
    [
        ("llama", "FP8", ""),
        ("mixtral", "FP8", "FP8"),
        ("qwen2-moe", "FP8", ""),
        ("phi3", "FP8", ""),
        ("gpt2", "FP8", "INT8"),
        ("wide", "W4A16_AWQ", ""),
        *((name, algo, "") for name in ("llama", "gpt2") for algo in STORED if algo.startswith("W8A8_SQ")),
        ("qwen2", FINE, "INT8"),
        ("phi3", NATIVE, ""),
        ("llama", "", "INT8"),
    ],
)
def test_quantized_ranks_give_the_logits_of_rounded_weights_and_inputs(name: str, algo: str, kv: str, tp: int) -> None:
    options = TrtllmOptions(quant_algo=algo, kv_cache_quant_algo=kv)
    made = _quantized(name, tp, options)
    assert not _differs(_judged(name, ranks_of(_model(name)[0], made.tensors, tp, options), tp, options), made.logits)


@pytest.mark.parametrize(
    ("name", "tp", "split"),
    [
        ("mixtral", 4, {"moe_ep": 2}),
        ("mixtral", 2, {"moe_ep": 2, "pp": 2}),
        ("mixtral", 2, {"version": "0.10.0"}),
        ("qwen2-moe", 2, {"version": "0.21.0"}),
    ],
)
def test_experts_dealt_out_and_other_versions(name: str, tp: int, split: dict[str, Any]) -> None:
    options = TrtllmOptions(quant_algo="FP8", **split)
    made = _quantized(name, tp, options)
    assert not _differs(_judged(name, ranks_of(_model(name)[0], made.tensors, tp, options), tp, options), made.logits)


H, Q, KV, F = HEADS * DIM, HEADS * DIM // 2, DIM, 48
"""Of the tiny llama, at tp 2: hidden; rows of q, of k, of v; of the mlp."""
MODULES = {
    "attention.qkv": (Q + 2 * KV, H),
    "attention.dense": (H, Q),
    "mlp.fc": (F, H),
    "mlp.gate": (F, H),
    "mlp.proj": (H, F),
}
_SMOOTHERS = {"attention.dense.smoother": (1, Q), "mlp.proj.smoother": (1, F)}
_TO_INT = {"input_layernorm.scale_to_int": (1,), "post_layernorm.scale_to_int": (1,)}
_FACTORS = {"attention.quantization_scaling_factor": (1,), "mlp.quantization_scaling_factor": (1,)}
_STATIC = _SMOOTHERS | _TO_INT | _FACTORS | {f"{m}.act_scale": (1, 1) for m in MODULES}
_EACH_ROW = {f"{m}.per_channel_scale": (1, rows) for m, (rows, _) in MODULES.items()}
_ONE = _EACH_ROW | {f"{m}.per_channel_scale": (1, 1) for m in MODULES if m != "attention.qkv"}
_ACTIVATION = {f"{m}.activation_scaling_factor": (1,) for m in MODULES}


@pytest.mark.parametrize(
    ("algo", "scales"),
    [
        ("FP8", _ACTIVATION | {f"{m}.weights_scaling_factor": (1,) for m in MODULES}),
        (
            NATIVE,
            _ACTIVATION
            | {f"{m}.weights_scaling_factor": (rows,) for m, (rows, _) in MODULES.items()}
            | {f"{m}.prequant_scaling_factor": (columns,) for m, (_, columns) in MODULES.items()},
        ),
        (FINE, _EACH_ROW | _SMOOTHERS | _TO_INT),
        ("W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN", _ONE | _SMOOTHERS | _TO_INT),
        (STATIC, _EACH_ROW | _STATIC),
        (COARSE, _ONE | _STATIC),
    ],
)
def test_names_shapes_and_dtypes(algo: str, scales: dict[str, tuple[int, ...]]) -> None:
    options = TrtllmOptions(quant_algo=algo, kv_cache_quant_algo="INT8")
    made = _quantized("llama", 2, options)
    rank = stored_ranks_of(_model("llama")[0], made.tensors, 2, options)[1]
    before = "transformer.layers.1."
    found = {name.removeprefix(before): tensor for name, tensor in rank.items() if name.startswith(before)}
    weights = {f"{module}.weight": shape for module, shape in MODULES.items()}
    norms = {"input_layernorm.weight": (H,), "post_layernorm.weight": (H,)}
    cache_scale = {"attention.kv_cache_scaling_factor": (1,)}
    assert {name: tensor.shape for name, tensor in found.items()} == weights | norms | scales | cache_scale
    kind = "uint8" if algo == "FP8" else "int8"
    assert {name: tensor.dtype.name for name, tensor in found.items() if tensor.dtype != np.float32} == dict.fromkeys(
        weights, kind
    )
    assert all(rank[name].dtype == np.float32 for name in ("lm_head.weight", "transformer.vocab_embedding.weight"))


def test_awq_packs_rows_and_scales_groups_of_columns() -> None:
    options = TrtllmOptions(quant_algo="W4A16_AWQ")
    rank = stored_ranks_of(WIDE, _quantized("wide", 2, options).tensors, 2, options)[1]
    shapes = {n.removeprefix("transformer.layers.0."): t.shape for n, t in rank.items() if ".layers.0." in n}
    rows = (4 + 2) * 64  # 4 query heads; 1 kv head, of keys and of values
    assert {name: shape for name, shape in shapes.items() if "norm" not in name} == {
        "attention.qkv.weight": (rows // 2, 128),
        "attention.qkv.weights_scaling_factor": (rows, 1),
        "attention.qkv.prequant_scaling_factor": (128,),
        "attention.dense.weight": (64, 256),
        "attention.dense.weights_scaling_factor": (128, 2),
        "attention.dense.prequant_scaling_factor": (256,),
        "mlp.fc.weight": (128, 128),
        "mlp.fc.weights_scaling_factor": (256, 1),
        "mlp.fc.prequant_scaling_factor": (128,),
        "mlp.gate.weight": (128, 128),
        "mlp.gate.weights_scaling_factor": (256, 1),
        "mlp.gate.prequant_scaling_factor": (128,),
        "mlp.proj.weight": (64, 256),
        "mlp.proj.weights_scaling_factor": (128, 2),
        "mlp.proj.prequant_scaling_factor": (256,),
    }
    assert checkpoint_config(WIDE, 2, "bfloat16", options)["quantization"] == {
        "quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": None, "group_size": 128, "has_zero_point": False,
        "pre_quant_scale": True,
    }  # fmt: skip


def test_scales_of_experts_go_where_the_experts_go() -> None:
    options = TrtllmOptions(quant_algo="FP8", moe_ep=2)
    ranks = stored_ranks_of(_model("mixtral")[0], _quantized("mixtral", 4, options).tensors, 4, options)
    name = "transformer.layers.0.mlp.fc.weights_scaling_factor"
    assert [rank[name].shape for rank in ranks] == [(2, 1)] * 4
    np.testing.assert_array_equal(ranks[0][name], ranks[2][name])
    assert (ranks[0][name] != ranks[1][name]).all()


@pytest.mark.parametrize(
    ("name", "algo"),
    [(name, "FP8") for name in ("mixtral", "phi3")] + [("llama", algo) for algo in (NATIVE, FINE, COARSE)],
)
def test_every_bit_comes_back_from_the_ranks(name: str, algo: str) -> None:
    options = TrtllmOptions(quant_algo=algo, kv_cache_quant_algo="FP8")
    config, made = _model(name)[0], _quantized(name, 4, options)
    lazies = {t: whole(str(t), array.shape, DTYPES[array.dtype.name]) for t, array in made.tensors.items()}
    source = {str(t): array.ravel().view(f"u{array.itemsize}") for t, array in made.tensors.items()}
    for layout in layouts(config, 4, options):
        shards = {str(r): read(lazy, source.__getitem__) for r, lazy in enumerate(layout.to_ranks(lazies))}
        ranks = [whole(rank, shard.shape, layout.dtype or "F32") for rank, shard in shards.items()]
        flat = {rank: shard.ravel() for rank, shard in shards.items()}
        for t, lazy in layout.from_ranks(ranks).items():
            np.testing.assert_array_equal(read(lazy, flat.__getitem__).ravel(), source[str(t)], err_msg=str(t))


LAYER = "transformer.layers.1."
Mutate = Callable[[list[dict[str, Array]]], None]


def _times(name: str, factor: float) -> Mutate:
    def mutate(ranks: list[dict[str, Array]]) -> None:
        for rank in ranks:
            rank[LAYER + name] = rank[LAYER + name] * np.float32(factor)

    return mutate


def _double(name: str) -> Mutate:
    return _times(name, 2)


def _of_the_other_rank(name: str) -> Mutate:
    def mutate(ranks: list[dict[str, Array]]) -> None:
        ranks[0][LAYER + name], ranks[1][LAYER + name] = ranks[1][LAYER + name], ranks[0][LAYER + name]

    return mutate


def _roll(name: str, by: int, axis: int = -1) -> Mutate:
    def mutate(ranks: list[dict[str, Array]]) -> None:
        for rank in ranks:
            rank[LAYER + name] = np.roll(rank[LAYER + name], by, axis)

    return mutate


def _swap_nibbles(ranks: list[dict[str, Array]]) -> None:
    for rank in ranks:
        packed = rank[LAYER + "mlp.fc.weight"].astype(np.int8).view(np.uint8)
        rank[LAYER + "mlp.fc.weight"] = (packed << 4 | packed >> 4).view(np.int8).astype(np.float32)


def _swap_halves(ranks: list[dict[str, Array]]) -> None:
    for rank in ranks:
        rank[LAYER + "mlp.fc.weight"] = np.roll(rank[LAYER + "mlp.fc.weight"], 48, -2)


QKV, DENSE, FC, PROJ = "attention.qkv.", "attention.dense.", "mlp.fc.", "mlp.proj."
MUTATIONS: Mapping[str, tuple[str, str, str, Mutate]] = {
    "fp8: scale of a weight doubled": ("llama", "FP8", "", _double(QKV + "weights_scaling_factor")),
    "fp8: scale of proj doubled": ("llama", "FP8", "", _double(PROJ + "weights_scaling_factor")),
    "fp8: scales of experts rotated": ("mixtral", "FP8", "", _roll(PROJ + "weights_scaling_factor", 1, 0)),
    "fp8: scales of experts doubled": ("mixtral", "FP8", "", _double(FC + "weights_scaling_factor")),
    "fp8: halves of fc swapped": ("mixtral", "FP8", "", _swap_halves),
    "fp8: scale of the cache too small": ("llama", "FP8", "FP8", _times("attention.kv_cache_scaling_factor", 0.25)),
    "awq: scales of the other rank": ("wide", "W4A16_AWQ", "", _of_the_other_rank(DENSE + "weights_scaling_factor")),
    "awq: groups rotated": ("wide", "W4A16_AWQ", "", _roll(PROJ + "weights_scaling_factor", 1)),
    "awq: the other half of a byte": ("wide", "W4A16_AWQ", "", _swap_nibbles),
    "awq: prequant of the other rank": ("wide", "W4A16_AWQ", "", _of_the_other_rank(PROJ + "prequant_scaling_factor")),
    "native: scales of k on v": ("llama", NATIVE, "", _roll(QKV + "weights_scaling_factor", DIM)),
    "native: halves of fc with each other's scales": ("phi3", NATIVE, "", _swap_halves),
    "native: prequant doubled": ("llama", NATIVE, "", _double(FC + "prequant_scaling_factor")),
    "plugin: scale doubled": ("llama", FINE, "", _double(PROJ + "per_channel_scale")),
    "plugin: scales of k on v": ("llama", FINE, "", _roll(QKV + "per_channel_scale", DIM)),
    "plugin: scales of the other rank": ("llama", FINE, "", _of_the_other_rank(FC + "per_channel_scale")),
    "plugin: smoother of the other rank": ("llama", FINE, "", _of_the_other_rank(DENSE + "smoother")),
    "plugin: smoother rotated": ("llama", FINE, "", _roll(PROJ + "smoother", 1)),
    "static: act_scale doubled": ("llama", STATIC, "", _double(FC + "act_scale")),
    "static: integers of the norm doubled": ("llama", STATIC, "", _double("input_layernorm.scale_to_int")),
    "static: integers of dense doubled": ("llama", COARSE, "", _double("attention.quantization_scaling_factor")),
    "static: integers of proj doubled": ("llama", COARSE, "", _double("mlp.quantization_scaling_factor")),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mistake_in_the_scales_changes_the_logits(mutation: str) -> None:
    name, algo, kv, mutate = MUTATIONS[mutation]
    options = TrtllmOptions(quant_algo=algo, kv_cache_quant_algo=kv)
    made = _quantized(name, 2, options)
    ranks = ranks_of(_model(name)[0], made.tensors, 2, options)
    assert not _differs(_judged(name, ranks, 2, options), made.logits)
    mutate(ranks)
    assert _differs(_judged(name, ranks, 2, options), made.logits)


def test_a_missing_and_a_superfluous_scale_are_named() -> None:
    options = TrtllmOptions(quant_algo=FINE)
    ranks = ranks_of(_model("llama")[0], _quantized("llama", 1, options).tensors, 1, options)
    name = LAYER + "mlp.gate.per_channel_scale"
    with pytest.raises(ArtifactError, match=f"no tensor `{name}`"):
        _judged("llama", [{key: value for key, value in ranks[0].items() if key != name}], 1, options)
    extra = LAYER + "mlp.gate.act_scale"
    with pytest.raises(ArtifactError, match=f"reads {extra}"):
        _judged("llama", [{**ranks[0], extra: np.ones((1, 1), np.float32)}], 1, options)
    with pytest.raises(ArtifactError, match="quant_algo 'W8A8'"):
        _judged("llama", ranks, 1, replace(options, quant_algo="W8A8"))
    with pytest.raises(ArtifactError, match="does not support experts"):
        experts(RankReader(0, {"fc.weight": np.ones((1, 2, 2), np.float32)}, algo=NATIVE), "fc.weight", 1, 2, 2)


@pytest.mark.parametrize(("name", "algo"), [("mixtral", "FP8"), ("wide", "W4A16_AWQ")])
def test_files_are_read_as_they_are_stored(name: str, algo: str, tmp_path: Path) -> None:
    """In blocks of a few rows."""
    options = TrtllmOptions(quant_algo=algo)
    config, made = _model(name)[0], _quantized(name, 2, options)
    files = []
    for r, rank in enumerate(stored_ranks_of(config, made.tensors, 2, options)):
        tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in rank.items()}
        tensors = {k: t.view(torch.float8_e4m3fn) if t.dtype == torch.uint8 else t for k, t in tensors.items()}
        save_file(tensors, tmp_path / f"rank{r}.safetensors")
        files.append(RankTensors(tmp_path / f"rank{r}.safetensors"))
    content = checkpoint_config(config, 2, "float32", options)
    assert not _differs(logits(content, files, TOKENS, block=4096), made.logits)


def test_the_judge_knows_float8_as_the_writer_does() -> None:
    np.testing.assert_array_equal(e4m3_values(), fp8.decode(np.arange(256, dtype=np.uint8)))
    values = np.random.default_rng(6).standard_normal(4096).astype(np.float32) * np.float32(2.0) ** np.arange(
        -14, 2
    ).repeat(256)
    values = np.concatenate([values * 100, [0, 448, 460, 1e6, -1e6, 2**-10, 3 * 2**-10, 2**-6]]).astype(np.float32)
    np.testing.assert_array_equal(as_e4m3(values), fp8.decode(fp8.encode(values)))
