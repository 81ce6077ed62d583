"""The decoder on converted weights against the reference on the checkpoint, for every recipe."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compiler.decoder.forward import forward, layer_weights, stream_logits
from compiler.model.config import LayerKind, ModelConfig
from tests import reference
from tests.tiny import TINY
from tests.weights import model_config, rank_weights

TOLERANCE = 1e-4  # of logits of about 8, in float32
LENGTH = 23  # longer than the sliding windows


def _tokens(vocab: int, rows: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", TINY)
def test_logits_are_those_of_the_reference(case: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint(case)
    config = model_config(folder)
    token_ids = _tokens(config.vocab)
    logits = forward(config, rank_weights(folder, tp=1)[0], token_ids)
    assert logits.shape == (2, LENGTH, config.vocab)
    torch.testing.assert_close(logits, reference.logits(folder, token_ids), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", ["llama", "llama/biases", "qwen2"])
def test_bfloat16_is_no_further_from_the_truth_than_transformers(
    case: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    folder = tiny_checkpoint(case)
    config = model_config(folder)
    token_ids = _tokens(config.vocab, rows=8)
    truth = reference.logits(folder, token_ids)
    ours = forward(config, rank_weights(folder, tp=1, dtype=torch.bfloat16)[0], token_ids)
    theirs = reference.logits(folder, token_ids, torch.bfloat16)
    assert ours.dtype == torch.float32
    assert (ours - truth).square().mean() < 1.2 * (theirs - truth).square().mean()


def test_streaming_holds_one_layer(tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint("llama")
    config = model_config(folder)
    weights = rank_weights(folder, tp=1)[0]
    asked: list[int] = []
    given: list[weakref.ref[Tensor]] = []

    def load(layer: int) -> dict[str, Tensor]:
        assert all(tensor() is None for tensor in given), "the layer before is still held"
        asked.append(layer)
        loaded = {name: tensor.clone() for name, tensor in layer_weights(weights, layer).items()}
        given.extend(weakref.ref(tensor) for tensor in loaded.values())
        return loaded

    outside = {name: tensor for name, tensor in weights.items() if not name.startswith("layers.")}
    token_ids = _tokens(config.vocab)
    assert torch.equal(stream_logits(config, load, outside, token_ids), forward(config, weights, token_ids))
    assert asked == [0, 1, 2]


def _swap_halves(rows: Tensor) -> Tensor:
    return rows.roll(rows.shape[-2] // 2, -2)


Weights = dict[str, Tensor]


def _change(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[ModelConfig, Weights], ModelConfig]:
    def mutate(config: ModelConfig, weights: Weights) -> ModelConfig:
        weights[name] = change(weights[name])
        return config

    return mutate


def _rotate_k_heads(config: ModelConfig, weights: Weights) -> ModelConfig:
    qkv = weights["layers.1.attn.qkv.weight"]
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    weights["layers.1.attn.qkv.weight"] = torch.cat((qkv[:q], qkv[q : q + kv].roll(config.head_dim, 0), qkv[q + kv :]))
    return config


def _rotate_v_heads(config: ModelConfig, weights: Weights) -> ModelConfig:
    qkv = weights["layers.1.attn.qkv.weight"]
    before = (config.heads + config.kv_heads) * config.head_dim
    weights["layers.1.attn.qkv.weight"] = torch.cat((qkv[:before], qkv[before:].roll(config.head_dim, 0)))
    return config


def _change_config(**changes: Any) -> Callable[[ModelConfig, Weights], ModelConfig]:
    return lambda config, _: replace(config, **changes)


def _confuse_qk_norms(config: ModelConfig, weights: Weights) -> ModelConfig:
    q, k = "layers.1.attn.q_norm.weight", "layers.1.attn.k_norm.weight"
    weights[q], weights[k] = weights[k].roll(1), weights[q]
    return config


def _one_after_the_other(config: ModelConfig, weights: Weights) -> ModelConfig:
    for layer in range(config.layers):
        for part in ("weight", "bias"):
            weights[f"layers.{layer}.mlp.norm.{part}"] = weights[f"layers.{layer}.attn.norm.{part}"]
    return replace(config, parallel_residual=False)


def _no_window(config: ModelConfig, _: Weights) -> ModelConfig:
    return replace(config, layer_kinds=tuple(LayerKind(kind.mlp) for kind in config.layer_kinds))


def _windows_for_chunks(config: ModelConfig, _: Weights) -> ModelConfig:
    return replace(config, layer_kinds=tuple(replace(k, window=k.chunk, chunk=None) for k in config.layer_kinds))


def _softmax_router(config: ModelConfig, _: Weights) -> ModelConfig:
    return replace(config, router="softmax")


def _same_kinds(config: ModelConfig, _: Weights) -> ModelConfig:
    return replace(config, layer_kinds=config.layer_kinds[:1] * config.layers)


def _positions_everywhere(config: ModelConfig, _: Weights) -> ModelConfig:
    return replace(config, layer_kinds=tuple(replace(kind, rope="main") for kind in config.layer_kinds))


MUTATIONS: dict[str, tuple[str, Callable[[ModelConfig, Weights], ModelConfig]]] = {
    "gate and up swapped": ("llama", _change("layers.1.mlp.gate_up.weight", _swap_halves)),
    "kv heads rotated": ("llama", _rotate_k_heads),
    "norm halved": ("llama", _change("layers.2.mlp.norm.weight", lambda w: w / 2)),
    "bias halved": ("llama/biases", _change("layers.0.attn.o.bias", lambda b: b / 2)),
    "experts rotated": ("mixtral", _change("layers.0.moe.down.weight", lambda w: w.roll(1, 0))),
    "expert gate and up swapped": ("mixtral", _change("layers.0.moe.gate_up.weight", _swap_halves)),
    "shares not renormalized": ("mixtral", _change_config(renormalize_experts=False)),
    "window forgotten": ("mistral", _no_window),
    "window forgotten in some layers": ("qwen2/window", _no_window),
    "scaling forgotten": ("llama/rope-llama3", _change_config(rope_scaling=None)),
    "slopes of a rotation": ("baichuan/v1-13b", _change_config(position="rope", rotary_dim=4)),
    "head not normalized": ("baichuan/v2-7b", _change_config(head="plain")),
    "head normalized": ("baichuan", _change_config(head="l2_rows")),
    "one of 1 + weight forgotten": ("gemma", _change_config(norm="rms")),
    "embedding not scaled": ("gemma", _change_config(embedding_scale=1.0)),
    "norms of q and k confused": ("qwen3", _confuse_qk_norms),
    "gate of the shared expert forgotten": ("qwen2_moe", _change_config(shared_expert_gate=False)),
    "shares renormalized": ("qwen2_moe", _change_config(renormalize_experts=True)),
    "one after the other": ("gptj", _one_after_the_other),
    "bias of the head halved": ("gptj", _change("head.bias", lambda b: b / 2)),
    "all of a head turned": ("glm", _change_config(rotary_dim=16)),
    "pairs of halves": ("chatglm", _change_config(rotary="half")),
    "base not multiplied": ("chatglm/3-long", _change_config(rope_theta=1e4)),
    "positions not divided": ("chatglm/2-long", _change_config(rope_scaling=None)),
    "positions shifted": ("gpt2", _change("position.weight", lambda w: w.roll(1, 0))),
    "relu for gelu": ("santacoder", _change_config(activation="relu")),
    "w1 and w2 swapped": ("qwen", _change("layers.1.mlp.gate_up.weight", _swap_halves)),
    "v of another kv head": ("internlm2", _rotate_v_heads),
    "bias of the output halved": ("internlm", _change("layers.0.attn.o.bias", lambda b: b / 2)),
    "sinks forgotten": ("gpt_oss", _change_config(sinks=False)),
    "bias of the router forgotten": ("gpt_oss", _change("layers.1.moe.router.bias", torch.zeros_like)),
    "bias of the experts forgotten": ("gpt_oss", _change("layers.1.moe.gate_up.bias", torch.zeros_like)),
    "gate not clamped and up not shifted": ("gpt_oss", _change_config(activation="silu")),
    "corrections forgotten": ("deepseek_v3", _change("layers.1.moe.correction.weight", torch.zeros_like)),
    "groups forgotten": ("deepseek_v2/groups", _change_config(expert_groups=0)),
    "routed experts not scaled": ("deepseek_v3", _change_config(routed_scale=1.0)),
    "scores of the width of a latent": ("deepseek_v2", _change_config(attention_scale=0.0)),
    "square of yarn's scale forgotten": ("deepseek_v3/yarn", _change_config(attention_scale=20**-0.5)),
    "latents not normalized": ("deepseek_v2", _change("layers.1.attn.kv_a_norm.weight", torch.ones_like)),
    "chunk for a window": ("llama4", _windows_for_chunks),
    "temperature forgotten": ("llama4", _change_config(temperature_floor=0)),
    "softmax for a sigmoid of the input": ("llama4", _softmax_router),
    "heads not normalized after the rotation": ("llama4", _change_config(qk_norm=False)),
    "pairs confused": ("llama", _change_config(rotary="interleaved")),
    "scores not capped": ("gemma2", _change_config(attention_softcap=0.0)),
    "logits not capped": ("gemma2", _change_config(logit_softcap=0.0)),
    "scores of the wrong scale": ("gemma2", _change_config(attention_scale=0.0)),
    "one theta for all layers": ("gemma3", _change_config(local_rope_theta=1e6)),
    "window in every layer": ("gemma3", _same_kinds),
    "sums not scaled": ("granite", _change_config(residual_scale=1.0)),
    "logits not scaled": ("granite", _change_config(logit_scale=1.0)),
    "positions in every layer": ("smollm3", _positions_everywhere),
    "positions in full layers": ("cohere2", _positions_everywhere),
    "embedding not normalized": ("bloom", _change_config(embedding_norm=False)),
    "positions from row 0": ("opt", _change_config(position_offset=0)),
    "biases by distance": ("falcon/alibi", _change_config(alibi="distance")),
    "q, k and v not clipped": ("mpt/clipped", _change_config(clip_qkv=0.0)),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mistake_shows(mutation: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    case, mutate = MUTATIONS[mutation]
    folder = tiny_checkpoint(case)
    weights = rank_weights(folder, tp=1)[0]
    config = mutate(model_config(folder), weights)
    token_ids = _tokens(config.vocab)
    assert (forward(config, weights, token_ids) - reference.logits(folder, token_ids)).abs().max() > 100 * TOLERANCE
