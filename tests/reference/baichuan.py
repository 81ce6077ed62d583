"""Baichuan: 40 heads are the 13B with alibi; a `z_loss_weight` is generation 2 with its normalised head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import attention, linear, rms_norm, silu, turn_halves


def shapes(hf: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, ffn, vocab = hf["hidden_size"], hf["intermediate_size"], hf["vocab_size"]
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocab, hidden),
    }
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        found |= {layer + "input_layernorm.weight": (hidden,), layer + "post_attention_layernorm.weight": (hidden,)}
        found |= {layer + "self_attn.W_pack.weight": (3 * hidden, hidden)}
        found |= {layer + "self_attn.o_proj.weight": (hidden, hidden)}
        found |= {layer + "mlp.gate_proj.weight": (ffn, hidden), layer + "mlp.up_proj.weight": (ffn, hidden)}
        found |= {layer + "mlp.down_proj.weight": (hidden, ffn)}
    return found


def slopes(heads: int) -> Tensor:
    """2^(-8/n), 2^(-16/n), ... for a power of two n; what heads remain take every second one of the series of 2 n."""
    n = 1
    while 2 * n <= heads:
        n *= 2
    first = [2 ** (-8 * (i + 1) / n) for i in range(n)]
    finer = [2 ** (-8 * (i + 1) / (2 * n)) for i in range(2 * n)]
    return torch.tensor(first + finer[0::2][: heads - n])


def forward(hf: Mapping[str, Any], tensors: Mapping[str, Tensor], token_ids: Tensor) -> Tensor:
    eps, heads = hf["rms_norm_eps"], hf["num_attention_heads"]
    large, second = heads == 40, "z_loss_weight" in hf
    x = tensors["model.embed_tokens.weight"][token_ids]
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        y = rms_norm(x, tensors[layer + "input_layernorm.weight"], eps)
        q, k, v = (p.unflatten(-1, (heads, -1)) for p in linear(y, tensors, layer + "self_attn.W_pack").chunk(3, -1))
        if large:
            y = attention(q, k, v, slopes(heads))
        else:
            y = attention(turn_halves(q, 10000.0), turn_halves(k, 10000.0), v)
        x = x + linear(y, tensors, layer + "self_attn.o_proj")
        y = rms_norm(x, tensors[layer + "post_attention_layernorm.weight"], eps)
        inner = silu(linear(y, tensors, layer + "mlp.gate_proj")) * linear(y, tensors, layer + "mlp.up_proj")
        x = x + linear(inner, tensors, layer + "mlp.down_proj")
    head = tensors["lm_head.weight"]
    if second:
        head = head / head.norm(dim=1, keepdim=True)
    return rms_norm(x, tensors["model.norm.weight"], eps) @ head.T
