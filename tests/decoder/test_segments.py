"""Segments: what they are called, what goes into them, and that torch.export takes them with free sizes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compiler.decoder.forward import forward, layer_weights
from compiler.decoder.products import Products
from compiler.decoder.segments import (
    PHASES,
    SegmentSpec,
    compiled_whole,
    input_names,
    phase_for,
    segment_names,
    specs,
    weight_shapes,
)
from compiler.model.config import LayerKind, ModelConfig
from compiler.model.limits import Limits
from compiler.quantization.schemes import FLOAT
from compiler.targets.inductor.graph import build_segment
from tests.simulated import SimulatedRanks, run_eagerly
from tests.tiny import TINY
from tests.tiny import model_config as tiny_config
from tests.weights import model_config, rank_weights

LIMITS = Limits(max_positions=64, max_batch=4, prefill_chunk=16)


def _config(**changes: object) -> ModelConfig:
    config = ModelConfig(
        "SomeForCausalLM", layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn=24, vocab=33, norm_eps=1e-5,
        max_positions=64, dtype="float32", rotary_dim=8, layer_kinds=(LayerKind("gated"),) * 2,
    )  # fmt: skip
    return replace(config, **changes)  # type: ignore[arg-type]  # names are checked by dataclasses at run time


def _names(config: ModelConfig, phase: str = "prefill") -> dict[str, tuple[str, ...]]:
    return {spec.segment: input_names(spec) for spec in specs(config, 1, "float32", LIMITS) if spec.phase == phase}


@given(batch=st.integers(1, 64), length=st.integers(1, 64))
def test_a_step_runs_in_a_phase_that_takes_it(batch: int, length: int) -> None:
    phase = next(phase for phase in PHASES if phase.name == phase_for(batch, length))
    assert phase.takes(batch, length)
    assert (length == 1) == (phase.length == 1)


def test_packages_do_not_depend_on_depth_or_name() -> None:
    deep = _config(layers=80, layer_kinds=(LayerKind("gated"),) * 80, architecture="OtherForCausalLM")
    assert specs(_config(), 2, "bfloat16", LIMITS) == specs(deep, 2, "bfloat16", LIMITS)
    assert specs(_config(), 2, "bfloat16", LIMITS) != specs(_config(), 1, "bfloat16", LIMITS)


def test_layers_share_what_they_have_in_common() -> None:
    kinds = (LayerKind("gated", 16), LayerKind("moe", 16), LayerKind("moe"))
    config = _config(layers=3, layer_kinds=kinds, experts=4, experts_per_token=2, moe_ffn=12)
    assert [segment_names(config, kind) for kind in kinds] == [
        ("attn-window16", "mlp-gated"),
        ("attn-window16", "mlp-moe"),
        ("attn", "mlp-moe"),
    ]
    found = specs(config, 1, "float32", LIMITS)
    assert len({spec.name for spec in found}) == len(found)
    assert {spec.segment for spec in found} == {"embed", "attn", "attn-window16", "mlp-gated", "mlp-moe", "head"}


WHOLE = (
    (1, FLOAT, ("layer-gated", "layer-gated"), True),
    (1, "grouped", ("layer-window16-gated", "layer-gated"), True),
    (2, FLOAT, ("layer-gated", "layer-gated"), False),
    (1, (("weight_only", "float"),) * 2, ("layer-gated", "layer-gated"), False),
)


@pytest.mark.parametrize(("tp", "products", "names", "expected"), WHOLE)
def test_layers_of_one_rank_and_one_product_are_whole(
    tp: int, products: Products, names: tuple[str, ...], expected: bool
) -> None:
    kinds = tuple(LayerKind("gated", 16 if "window16" in name else None) for name in names)
    config = _config(layer_kinds=kinds)
    assert compiled_whole(config, tp, products) is expected
    assert tuple(segment_names(config, kind, whole=True)[0] for kind in kinds) == names


def test_layers_are_not_whole_where_that_makes_more_segments() -> None:
    mixed = tuple(LayerKind(mlp, window) for window in (None, 8, 16) for mlp in ("gated", "moe"))
    config = _config(layers=6, layer_kinds=mixed, experts=4, experts_per_token=2, moe_ffn=12)
    assert not compiled_whole(config, 1, FLOAT)
    assert compiled_whole(replace(config, layers=2, layer_kinds=mixed[:2]), 1, FLOAT)


def test_a_whole_layer_reads_what_its_parts_read_and_the_norms_after_them() -> None:
    gemma = tiny_config("gemma2")
    parts, whole = (
        {name for spec in specs(gemma, 1, "float32", LIMITS, whole=whole) for name in input_names(spec)}
        for whole in (False, True)
    )
    assert whole - parts == {"attn.post_norm.weight", "mlp.post_norm.weight"}
    assert parts <= whole


def test_phases_that_a_batch_of_one_never_runs_are_not_compiled() -> None:
    one = specs(_config(), 1, "float32", replace(LIMITS, max_batch=1))
    assert {spec.phase for spec in one} == {phase_for(1, 1), phase_for(1, 2)}
    assert {spec.phase for spec in specs(_config(), 1, "float32", LIMITS)} == {phase.name for phase in PHASES}


def test_specs_are_plain_data() -> None:
    config = _config(layer_kinds=(LayerKind("gated", 16),) * 2)
    for spec in specs(config, 2, "bfloat16", LIMITS):
        assert SegmentSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
        assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301 - what was just written


def test_inputs_are_only_what_the_segment_reads() -> None:
    assert _names(_config()) == {
        "embed": ("token_ids", "vocab_offset", "embed.weight"),
        "attn": (
            "x", "positions", "key_positions", "cache_k", "cache_v", "rope.cos", "rope.sin",
            "attn.norm.weight", "attn.qkv.weight", "attn.o.weight",
        ),
        "mlp-gated": ("x", "mlp.norm.weight", "mlp.gate_up.weight", "mlp.down.weight"),
        "head": ("x", "last", "final.norm.weight", "head.weight"),
    }  # fmt: skip
    biased = _names(_config(qkv_bias=True, out_bias=True, mlp_bias=True, norm="layer", position="learned"))
    assert biased["embed"] == (
        "token_ids", "vocab_offset", "positions", "first", "embed.weight", "position.weight",
    )  # fmt: skip
    assert "rope.cos" not in biased["attn"]
    assert {"first", "attn.norm.bias", "attn.qkv.bias", "attn.o.bias"} <= set(biased["attn"])
    assert {"first", "mlp.norm.bias", "mlp.gate_up.bias", "mlp.down.bias"} <= set(biased["mlp-gated"])
    assert "embed.weight" in _names(_config(tied=True))["head"]
    sloped = _names(_config(position="alibi"))["attn"]
    assert "alibi.slopes" in sloped
    assert not {"rope.cos", "rope.sin"} & set(sloped)
    assert "attn.norm.weight" in _names(_config(parallel_residual=True))["mlp-gated"]


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "case",
    ["llama/biases", "llama/tied", "mixtral", "gpt2", "gptj", "qwen2_moe/all-sparse", "stablelm/parallel", "opt",
     "gpt_oss", "deepseek_v3/halves", "llama4/all-sparse"],
)  # fmt: skip
def test_weights_are_those_of_the_rank_file(case: str, tp: int, tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint(case)
    for rank in rank_weights(folder, tp):
        there = {name: tuple(w.shape) for name, w in {**rank, **layer_weights(rank, 0)}.items()}
        read = set()
        for spec in specs(model_config(folder), tp, "float32", LIMITS):
            shapes = weight_shapes(spec)
            assert shapes == {name: there[name] for name in shapes}
            read |= set(shapes)
        assert read == {name for name in there if not name.startswith("layers.")}


@cache
def _exported(spec: SegmentSpec) -> torch.nn.Module:
    module, examples, dynamic_shapes = build_segment(spec, "cpu")
    program = torch.export.export(
        module,
        examples,
        dynamic_shapes=dynamic_shapes,
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    return program.module()


def _run_exported(spec: SegmentSpec, inputs: Sequence[Tensor]) -> Tensor:
    result: Tensor = _exported(spec)(*inputs)
    return result


@pytest.mark.parametrize(
    "case",
    [
        "llama/biases",
        "llama/tied",
        "mixtral/window",
        "qwen2/window",
        "baichuan/v2-13b",
        "gpt2",
        "gptj",
        "qwen2_moe",
        "gemma2",
        "gemma3/rope-linear",
        "granite",
        "smollm3",
        "falcon/alibi",
        "bloom",
        "opt",
        "mpt/clipped",
        "gpt_oss/yarn",
        "deepseek_v2",
        "deepseek_v3/yarn",
        "llama4/all-sparse",
    ],
)
def test_exported_segments_take_any_batch_and_length(case: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    assert case in TINY
    folder = tiny_checkpoint(case)
    config = model_config(folder)
    ranks = rank_weights(folder, 2)
    whole = rank_weights(folder, 1)[0]
    token_ids = torch.randint(0, config.vocab, (3, 12), generator=torch.Generator().manual_seed(3))
    for rows, bounds in ((3, (0, 9, 10, 12)), (1, (0, 1, 2, 8)), (2, (0, 5, 10, 11))):
        steps = SimulatedRanks(config, ranks, batch=rows, positions=12, run=_run_exported)
        logits = [
            steps.step(token_ids[:rows, a:b], torch.arange(a, b).expand(rows, b - a)) for a, b in pairwise(bounds)
        ]
        expected = forward(config, whole, token_ids[:rows, : bounds[-1]])
        torch.testing.assert_close(torch.cat(logits, 1), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("case", "kv"), [("llama/biases", "int8"), ("mistral", "fp8"), ("baichuan/v2-13b", "int8")])
def test_exported_segments_keep_a_quantized_cache(case: str, kv: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    """Every phase sees what the others stored; all ranks together what one has."""
    folder = tiny_checkpoint(case)
    config = model_config(folder)
    token_ids = torch.randint(0, config.vocab, (2, 12), generator=torch.Generator().manual_seed(4))
    found = []
    for tp, run, bounds in ((1, run_eagerly, (0, 12)), (2, _run_exported, (0, 9, 10, 11, 12))):
        ranks = rank_weights(folder, tp)
        for rank in ranks:
            for layer in range(config.layers):
                kv_heads = max(config.kv_heads // tp, 1)
                rank |= {f"layers.{layer}.attn.{which}.cache_scale": torch.full((kv_heads,), 0.01) for which in "kv"}
        steps = SimulatedRanks(config, ranks, batch=2, positions=12, run=run, cache=kv)
        logits = [steps.step(token_ids[:, a:b], torch.arange(a, b).expand(2, b - a)) for a, b in pairwise(bounds)]
        found.append(torch.cat(logits, 1))
    # Another order of sums moves a few values to the next step of the format, which is wide for fp8.
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=2e-2 if kv == "fp8" else 1e-3)
    whole = forward(config, rank_weights(folder, 1)[0], token_ids)
    assert (found[0] - whole).abs().max() > 1e-3


def test_a_cache_without_room_behind_what_is_seen_is_refused() -> None:
    spec = next(spec for spec in specs(_config(), 1, "float32", LIMITS) if spec.name == "attn.prefill")
    _, examples, _ = build_segment(spec, "cpu")
    inputs = dict(zip(input_names(spec), (torch.zeros(e.shape, dtype=e.dtype) for e in examples), strict=True))
    inputs["key_positions"] = torch.arange(inputs["cache_k"].shape[1])
    with pytest.raises((RuntimeError, AssertionError), match=r"Runtime assertion|Guard"):
        _run_exported(spec, list(inputs.values()))
