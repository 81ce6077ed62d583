"""ChatGLM 2 (positions divided by rope_ratio), ChatGLM 3 and GLM-4 (base multiplied by it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import attention, linear, rms_norm, silu, turn_neighbours


def shapes(hf: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, ffn, vocab = hf["hidden_size"], hf["ffn_hidden_size"], hf["padded_vocab_size"]
    inner = hf["kv_channels"] * hf["num_attention_heads"]
    fused = inner + 2 * hf["kv_channels"] * hf["multi_query_group_num"]
    found: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (vocab, hidden),
        "transformer.rotary_pos_emb.inv_freq": (hf["kv_channels"] // 4,),
        "transformer.encoder.final_layernorm.weight": (hidden,),
        "transformer.output_layer.weight": (vocab, hidden),
    }
    for i in range(hf["num_layers"]):
        layer = f"transformer.encoder.layers.{i}."
        found |= {layer + "input_layernorm.weight": (hidden,), layer + "post_attention_layernorm.weight": (hidden,)}
        found |= {layer + "self_attention.query_key_value.weight": (fused, hidden)}
        found |= {layer + "self_attention.query_key_value.bias": (fused,)} if hf["add_qkv_bias"] else {}
        found |= {layer + "self_attention.dense.weight": (hidden, inner)}
        found |= {layer + "mlp.dense_h_to_4h.weight": (2 * ffn, hidden)}
        found |= {layer + "mlp.dense_4h_to_h.weight": (hidden, ffn)}
    return found


def forward(hf: Mapping[str, Any], tensors: Mapping[str, Tensor], token_ids: Tensor) -> Tensor:
    eps, dim, heads = hf["layernorm_epsilon"], hf["kv_channels"], hf["num_attention_heads"]
    ratio = hf.get("rope_ratio", 1)
    second = "chatglm2" in hf.get("_name_or_path", "")
    base, stretch = (10000.0, ratio) if second else (10000.0 * ratio, 1)
    kv = hf["multi_query_group_num"]

    def turn(heads: Tensor) -> Tensor:
        return torch.cat((turn_neighbours(heads[..., : dim // 2], base, stretch), heads[..., dim // 2 :]), -1)

    x = tensors["transformer.embedding.word_embeddings.weight"][token_ids]
    for i in range(hf["num_layers"]):
        layer = f"transformer.encoder.layers.{i}."
        y = rms_norm(x, tensors[layer + "input_layernorm.weight"], eps)
        fused = linear(y, tensors, layer + "self_attention.query_key_value")
        q, k, v = (p.unflatten(-1, (-1, dim)) for p in fused.split((heads * dim, kv * dim, kv * dim), -1))
        x = x + linear(attention(turn(q), turn(k), v), tensors, layer + "self_attention.dense")
        y = rms_norm(x, tensors[layer + "post_attention_layernorm.weight"], eps)
        gate, up = linear(y, tensors, layer + "mlp.dense_h_to_4h").chunk(2, -1)
        x = x + linear(silu(gate) * up, tensors, layer + "mlp.dense_4h_to_h")
    x = rms_norm(x, tensors["transformer.encoder.final_layernorm.weight"], eps)
    return linear(x, tensors, "transformer.output_layer")
