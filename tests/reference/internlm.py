"""InternLM 1 within its trained length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        for letter in "qkvo":
            found[f"{layer}self_attn.{letter}_proj.weight"] = (hidden, hidden)
            if hf["bias"]:
                found[f"{layer}self_attn.{letter}_proj.bias"] = (hidden,)
        found[layer + "self_attn.rotary_emb.inv_freq"] = (hidden // hf["num_attention_heads"] // 2,)
        found |= {layer + "mlp.gate_proj.weight": (ffn, hidden), layer + "mlp.up_proj.weight": (ffn, hidden)}
        found |= {layer + "mlp.down_proj.weight": (hidden, ffn)}
    return found


def forward(hf: Mapping[str, Any], tensors: Mapping[str, Tensor], token_ids: Tensor) -> Tensor:
    assert token_ids.shape[1] <= hf["max_position_embeddings"]
    eps, heads, base = hf["rms_norm_eps"], hf["num_attention_heads"], hf["rotary"]["base"]
    x = tensors["model.embed_tokens.weight"][token_ids]
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        y = rms_norm(x, tensors[layer + "input_layernorm.weight"], eps)
        q, k, v = (linear(y, tensors, f"{layer}self_attn.{n}_proj").unflatten(-1, (heads, -1)) for n in "qkv")
        y = attention(turn_halves(q, base), turn_halves(k, base), v)
        x = x + linear(y, tensors, layer + "self_attn.o_proj")
        y = rms_norm(x, tensors[layer + "post_attention_layernorm.weight"], eps)
        inner = silu(linear(y, tensors, layer + "mlp.gate_proj")) * linear(y, tensors, layer + "mlp.up_proj")
        x = x + linear(inner, tensors, layer + "mlp.down_proj")
    return linear(rms_norm(x, tensors["model.norm.weight"], eps), tensors, "lm_head")
