"""InternLM 2 within its trained length: a kv head's queries, its key and its value stand together in `wqkv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tests.reference.blocks import attention, linear, rms_norm, silu, turn_halves


def shapes(hf: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, ffn, vocab = hf["hidden_size"], hf["intermediate_size"], hf["vocab_size"]
    heads, kv = hf["num_attention_heads"], hf["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {
        "model.tok_embeddings.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
        "output.weight": (vocab, hidden),
    }
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        found |= {layer + "attention_norm.weight": (hidden,), layer + "ffn_norm.weight": (hidden,)}
        found |= {layer + "attention.wqkv.weight": ((heads + 2 * kv) * (hidden // heads), hidden)}
        found |= {layer + "attention.wo.weight": (hidden, hidden)}
        found |= {layer + "feed_forward.w1.weight": (ffn, hidden), layer + "feed_forward.w3.weight": (ffn, hidden)}
        found |= {layer + "feed_forward.w2.weight": (hidden, ffn)}
    return found


def forward(hf: Mapping[str, Any], tensors: Mapping[str, Tensor], token_ids: Tensor) -> Tensor:
    assert token_ids.shape[1] <= hf["max_position_embeddings"]
    eps, base = hf["rms_norm_eps"], hf["rope_theta"]
    heads, kv = hf["num_attention_heads"], hf["num_key_value_heads"]
    x = tensors["model.tok_embeddings.weight"][token_ids]
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        y = linear(rms_norm(x, tensors[layer + "attention_norm.weight"], eps), tensors, layer + "attention.wqkv")
        groups = y.unflatten(-1, (kv, heads // kv + 2, -1))
        q, k, v = groups[..., :-2, :].flatten(2, 3), groups[..., -2, :], groups[..., -1, :]
        y = attention(turn_halves(q, base), turn_halves(k, base), v)
        x = x + linear(y, tensors, layer + "attention.wo")
        y = rms_norm(x, tensors[layer + "ffn_norm.weight"], eps)
        inner = silu(linear(y, tensors, layer + "feed_forward.w1")) * linear(y, tensors, layer + "feed_forward.w3")
        x = x + linear(inner, tensors, layer + "feed_forward.w2")
    return linear(rms_norm(x, tensors["model.norm.weight"], eps), tensors, "output")
