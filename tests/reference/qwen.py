"""Qwen 1 within its trained length: no logn, no dynamic NTK."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tests.reference.blocks import attention, linear, rms_norm, silu, turn_halves


def shapes(hf: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = hf["hidden_size"], hf["kv_channels"] * hf["num_attention_heads"]
    half = hf["intermediate_size"] // 2
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (hf["vocab_size"], hidden),
        "transformer.ln_f.weight": (hidden,),
        "lm_head.weight": (hf["vocab_size"], hidden),
    }
    for i in range(hf["num_hidden_layers"]):
        layer = f"transformer.h.{i}."
        found |= {layer + "ln_1.weight": (hidden,), layer + "ln_2.weight": (hidden,)}
        found |= {layer + "attn.c_attn.weight": (3 * inner, hidden), layer + "attn.c_attn.bias": (3 * inner,)}
        found |= {layer + "attn.c_proj.weight": (hidden, inner)}
        found |= {layer + "mlp.w1.weight": (half, hidden), layer + "mlp.w2.weight": (half, hidden)}
        found |= {layer + "mlp.c_proj.weight": (hidden, half)}
    return found


def forward(hf: Mapping[str, Any], tensors: Mapping[str, Tensor], token_ids: Tensor) -> Tensor:
    assert token_ids.shape[1] <= hf["seq_length"]
    eps, heads = hf["layer_norm_epsilon"], hf["num_attention_heads"]
    x = tensors["transformer.wte.weight"][token_ids]
    for i in range(hf["num_hidden_layers"]):
        layer = f"transformer.h.{i}."
        qkv = linear(rms_norm(x, tensors[layer + "ln_1.weight"], eps), tensors, layer + "attn.c_attn")
        q, k, v = (part.unflatten(-1, (heads, -1)) for part in qkv.chunk(3, -1))
        y = attention(turn_halves(q, hf["rotary_emb_base"]), turn_halves(k, hf["rotary_emb_base"]), v)
        x = x + linear(y, tensors, layer + "attn.c_proj")
        y = rms_norm(x, tensors[layer + "ln_2.weight"], eps)
        inner = linear(y, tensors, layer + "mlp.w1") * silu(linear(y, tensors, layer + "mlp.w2"))
        x = x + linear(inner, tensors, layer + "mlp.c_proj")
    return linear(rms_norm(x, tensors["transformer.ln_f.weight"], eps), tensors, "lm_head")
