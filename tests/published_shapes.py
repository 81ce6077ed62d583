"""Names and shapes of the tensors of published checkpoints, by architecture: written out from the architectures."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from tests.published_family_shapes import FAMILY_SHAPES
from tests.shapes import Config, Shapes, linear, norm


def _heads(hf: Config) -> tuple[int, int, int]:
    """Rows of q, rows of k (and of v), elements of a head."""
    dim = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    return hf["num_attention_heads"] * dim, hf["num_key_value_heads"] * dim, dim


def _attention(hf: Config, layer: str, *, qkv_bias: bool = False, out_bias: bool = False) -> Shapes:
    hidden = hf["hidden_size"]
    q, kv, _ = _heads(hf)
    found: Shapes = {}
    for letter, rows in (("q", q), ("k", kv), ("v", kv)):
        found |= linear(f"{layer}self_attn.{letter}_proj", rows, hidden, bias=qkv_bias)
    return found | linear(f"{layer}self_attn.o_proj", hidden, q, bias=out_bias)


def _swiglu(stem: str, hidden: int, ffn: int) -> Shapes:
    found = linear(f"{stem}.gate_proj", ffn, hidden) | linear(f"{stem}.up_proj", ffn, hidden)
    return found | linear(f"{stem}.down_proj", hidden, ffn)


def _around(hf: Config, layers: Callable[[str], Shapes], *, bias: bool = False) -> Shapes:
    """The usual outside of the layers, and in every layer the two norms and what `layers` adds."""
    hidden, vocab = hf["hidden_size"], hf["vocab_size"]
    found = linear("model.embed_tokens", vocab, hidden) | norm("model.norm", hidden, bias=bias)
    if not hf.get("tie_word_embeddings", hf.get("model_type") == "starcoder2"):  # absent: the default of its class
        found |= linear("lm_head", vocab, hidden)
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        found |= norm(layer + "input_layernorm", hidden, bias=bias)
        found |= norm(layer + "post_attention_layernorm", hidden, bias=bias) | layers(layer)
    return found


def _llama(hf: Config) -> Shapes:
    mlp = (hf["hidden_size"], hf["intermediate_size"])
    return _around(hf, lambda layer: _attention(hf, layer) | _swiglu(layer + "mlp", *mlp))


def _qwen2(hf: Config) -> Shapes:
    mlp = (hf["hidden_size"], hf["intermediate_size"])
    return _around(hf, lambda layer: _attention(hf, layer, qkv_bias=True) | _swiglu(layer + "mlp", *mlp))


def _head_norms(hf: Config, layer: str) -> Shapes:
    return norm(layer + "self_attn.q_norm", hf["head_dim"]) | norm(layer + "self_attn.k_norm", hf["head_dim"])


def _qwen3(hf: Config) -> Shapes:
    mlp = (hf["hidden_size"], hf["intermediate_size"])
    return _around(hf, lambda layer: _attention(hf, layer) | _head_norms(hf, layer) | _swiglu(layer + "mlp", *mlp))


def _qwen3_moe(hf: Config) -> Shapes:
    hidden, experts = hf["hidden_size"], hf["num_experts"]

    def layers(layer: str) -> Shapes:
        found = _attention(hf, layer) | _head_norms(hf, layer) | linear(layer + "mlp.gate", experts, hidden)
        for e in range(experts):
            found |= _swiglu(f"{layer}mlp.experts.{e}", hidden, hf["moe_intermediate_size"])
        return found

    return _around(hf, layers)


def _mixtral(hf: Config) -> Shapes:
    hidden, ffn, experts = hf["hidden_size"], hf["intermediate_size"], hf["num_local_experts"]

    def layers(layer: str) -> Shapes:
        found = _attention(hf, layer) | linear(layer + "block_sparse_moe.gate", experts, hidden)
        for e in range(experts):
            expert = f"{layer}block_sparse_moe.experts.{e}."
            found |= linear(expert + "w1", ffn, hidden) | linear(expert + "w2", hidden, ffn)
            found |= linear(expert + "w3", ffn, hidden)
        return found

    return _around(hf, layers)


def _qwen2_moe(hf: Config) -> Shapes:
    hidden, experts = hf["hidden_size"], hf["num_experts"]

    def layers(layer: str) -> Shapes:
        found = _attention(hf, layer, qkv_bias=True) | linear(layer + "mlp.gate", experts, hidden)
        for e in range(experts):
            found |= _swiglu(f"{layer}mlp.experts.{e}", hidden, hf["moe_intermediate_size"])
        found |= _swiglu(layer + "mlp.shared_expert", hidden, hf["shared_expert_intermediate_size"])
        return found | linear(layer + "mlp.shared_expert_gate", 1, hidden)

    return _around(hf, layers)


def _olmo2(hf: Config) -> Shapes:
    """Norms behind the blocks, and of q and k over all heads."""
    hidden, vocab = hf["hidden_size"], hf["vocab_size"]
    q, kv, _ = _heads(hf)
    found = linear("model.embed_tokens", vocab, hidden) | norm("model.norm", hidden)
    found |= linear("lm_head", vocab, hidden)
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        found |= _attention(hf, layer) | _swiglu(layer + "mlp", hidden, hf["intermediate_size"])
        found |= norm(layer + "self_attn.q_norm", q) | norm(layer + "self_attn.k_norm", kv)
        found |= norm(layer + "post_attention_layernorm", hidden)
        found |= norm(layer + "post_feedforward_layernorm", hidden)
    return found


def _cohere(hf: Config) -> Shapes:
    """One norm a layer; the head is the embedding."""
    hidden = hf["hidden_size"]
    found = linear("model.embed_tokens", hf["vocab_size"], hidden) | norm("model.norm", hidden)
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        found |= norm(layer + "input_layernorm", hidden) | _attention(hf, layer)
        found |= _swiglu(layer + "mlp", hidden, hf["intermediate_size"])
    return found


def _starcoder2(hf: Config) -> Shapes:
    hidden, ffn = hf["hidden_size"], hf["intermediate_size"]
    return _around(
        hf,
        lambda layer: (
            _attention(hf, layer, qkv_bias=True, out_bias=True)
            | linear(layer + "mlp.c_fc", ffn, hidden, bias=True)
            | linear(layer + "mlp.c_proj", hidden, ffn, bias=True)
        ),
        bias=True,
    )


def _phi3(hf: Config) -> Shapes:
    hidden, ffn = hf["hidden_size"], hf["intermediate_size"]
    q, kv, _ = _heads(hf)
    return _around(
        hf,
        lambda layer: (
            linear(layer + "self_attn.qkv_proj", q + 2 * kv, hidden)
            | linear(layer + "self_attn.o_proj", hidden, q)
            | linear(layer + "mlp.gate_up_proj", 2 * ffn, hidden)
            | linear(layer + "mlp.down_proj", hidden, ffn)
        ),
    )


def _glm(hf: Config) -> Shapes:
    hidden, ffn = hf["hidden_size"], hf["intermediate_size"]
    return _around(
        hf,
        lambda layer: (
            _attention(hf, layer, qkv_bias=True)
            | linear(layer + "mlp.gate_up_proj", 2 * ffn, hidden)
            | linear(layer + "mlp.down_proj", hidden, ffn)
        ),
    )


def _gpt2(hf: Config) -> Shapes:
    """As the hub has it: without a prefix, linear layers input-major, the causal mask among the tensors."""
    hidden, positions = hf["n_embd"], hf["n_positions"]
    found: Shapes = {"wte.weight": (hf["vocab_size"], hidden), "wpe.weight": (positions, hidden)}
    found |= norm("ln_f", hidden, bias=True)
    for i in range(hf["n_layer"]):
        layer = f"h.{i}."
        found |= norm(layer + "ln_1", hidden, bias=True) | norm(layer + "ln_2", hidden, bias=True)
        found[layer + "attn.bias"] = (1, 1, positions, positions)
        for stem, rows, columns in (
            ("attn.c_attn", hidden, 3 * hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden),
            ("mlp.c_proj", 4 * hidden, hidden),
        ):
            found |= {f"{layer}{stem}.weight": (rows, columns), f"{layer}{stem}.bias": (columns,)}
    return found


def _starcoder(hf: Config) -> Shapes:
    hidden, ffn, dim = hf["n_embd"], hf["n_inner"], hf["n_embd"] // hf["n_head"]
    found = linear("transformer.wte", hf["vocab_size"], hidden) | linear("transformer.wpe", hf["n_positions"], hidden)
    found |= norm("transformer.ln_f", hidden, bias=True)
    for i in range(hf["n_layer"]):
        layer = f"transformer.h.{i}."
        found |= norm(layer + "ln_1", hidden, bias=True) | norm(layer + "ln_2", hidden, bias=True)
        found |= linear(layer + "attn.c_attn", hidden + 2 * dim, hidden, bias=True)
        found |= linear(layer + "attn.c_proj", hidden, hidden, bias=True)
        found |= linear(layer + "mlp.c_fc", ffn, hidden, bias=True)
        found |= linear(layer + "mlp.c_proj", hidden, ffn, bias=True)
    return found


def _gptj(hf: Config) -> Shapes:
    hidden, vocab, positions = hf["n_embd"], hf["vocab_size"], hf["n_positions"]
    found = linear("transformer.wte", vocab, hidden) | norm("transformer.ln_f", hidden, bias=True)
    found |= linear("lm_head", vocab, hidden, bias=True)
    for i in range(hf["n_layer"]):
        layer = f"transformer.h.{i}."
        found |= norm(layer + "ln_1", hidden, bias=True)
        found |= {layer + "attn.bias": (1, 1, positions, positions), layer + "attn.masked_bias": ()}
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{layer}attn.{name}", hidden, hidden)
        found |= linear(layer + "mlp.fc_in", 4 * hidden, hidden, bias=True)
        found |= linear(layer + "mlp.fc_out", hidden, 4 * hidden, bias=True)
    return found


def _gpt_neox(hf: Config) -> Shapes:
    """As the hub has it: the causal mask and the frequencies among the tensors."""
    hidden, ffn, vocab, positions = (
        hf[key] for key in ("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings")
    )
    rotated = int(hidden // hf["num_attention_heads"] * hf["rotary_pct"])
    found = linear("gpt_neox.embed_in", vocab, hidden) | linear("embed_out", vocab, hidden)
    found |= norm("gpt_neox.final_layer_norm", hidden, bias=True)
    for i in range(hf["num_hidden_layers"]):
        layer = f"gpt_neox.layers.{i}."
        found |= norm(layer + "input_layernorm", hidden, bias=True)
        found |= norm(layer + "post_attention_layernorm", hidden, bias=True)
        found |= linear(layer + "attention.query_key_value", 3 * hidden, hidden, bias=True)
        found |= linear(layer + "attention.dense", hidden, hidden, bias=True)
        found |= {layer + "attention.bias": (1, 1, positions, positions), layer + "attention.masked_bias": ()}
        found |= {layer + "attention.rotary_emb.inv_freq": (rotated // 2,)}
        found |= linear(layer + "mlp.dense_h_to_4h", ffn, hidden, bias=True)
        found |= linear(layer + "mlp.dense_4h_to_h", hidden, ffn, bias=True)
    return found


def _gpt_oss(hf: Config) -> Shapes:
    """As published, with every expert matrix where its blocks are, dequantized."""
    hidden, ffn, experts = hf["hidden_size"], hf["intermediate_size"], hf["num_local_experts"]

    def layers(layer: str) -> Shapes:
        found = _attention(hf, layer, qkv_bias=True, out_bias=True)
        found |= {layer + "self_attn.sinks": (hf["num_attention_heads"],)}
        found |= linear(layer + "mlp.router", experts, hidden, bias=True)
        for name, rows, columns in (("gate_up_proj", 2 * ffn, hidden), ("down_proj", hidden, ffn)):
            stem = f"{layer}mlp.experts.{name}"
            found |= {f"{stem}_blocks": (experts, rows, columns), f"{stem}_bias": (experts, rows)}
        return found

    return _around(hf, layers)


def _deepseek(hf: Config) -> Shapes:
    """V2 and V3 as published, dequantized, without V3's layer that predicts a further token.

    V2-Lite has one matrix for q, and its router no correction.
    """
    hidden, heads, experts = hf["hidden_size"], hf["num_attention_heads"], hf["n_routed_experts"]
    nope, rope, value, of_kv = (
        hf[key] for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank")
    )
    wide = hf["moe_intermediate_size"]

    def layers(layer: str) -> Shapes:
        attn = layer + "self_attn."
        if of_q := hf.get("q_lora_rank"):
            found = linear(attn + "q_a_proj", of_q, hidden) | norm(attn + "q_a_layernorm", of_q)
            found |= linear(attn + "q_b_proj", heads * (nope + rope), of_q)
        else:
            found = linear(attn + "q_proj", heads * (nope + rope), hidden)
        found |= linear(attn + "kv_a_proj_with_mqa", of_kv + rope, hidden) | norm(attn + "kv_a_layernorm", of_kv)
        found |= linear(attn + "kv_b_proj", heads * (nope + value), of_kv)
        found |= linear(attn + "o_proj", hidden, heads * value)
        if int(layer.split(".")[2]) < hf["first_k_dense_replace"]:
            return found | _swiglu(layer + "mlp", hidden, hf["intermediate_size"])
        found |= linear(layer + "mlp.gate", experts, hidden)
        if hf["topk_method"] == "noaux_tc":
            found |= {layer + "mlp.gate.e_score_correction_bias": (experts,)}
        for e in range(experts):
            found |= _swiglu(f"{layer}mlp.experts.{e}", hidden, wide)
        return found | _swiglu(layer + "mlp.shared_experts", hidden, wide * hf["n_shared_experts"])

    return _around(hf, layers)


def _remote(name: str) -> Callable[[Config], Shapes]:
    """Of an architecture that transformers lacks: the names that its reference reads. (References import torch.)"""

    def shapes(hf: Config) -> Shapes:
        found: Shapes = importlib.import_module(f"tests.reference.{name}").shapes(hf)
        return found

    return shapes


SHAPES: dict[str, Callable[[Config], Shapes]] = {
    **FAMILY_SHAPES,
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _llama,
    "MixtralForCausalLM": _mixtral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen2MoeForCausalLM": _qwen2_moe,
    "Qwen3ForCausalLM": _qwen3,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "Olmo2ForCausalLM": _olmo2,
    "CohereForCausalLM": _cohere,
    "GemmaForCausalLM": _llama,
    "Phi3ForCausalLM": _phi3,
    "GlmForCausalLM": _glm,
    "Starcoder2ForCausalLM": _starcoder2,
    "GPT2LMHeadModel": _gpt2,
    "GPTJForCausalLM": _gptj,
    "GPTNeoXForCausalLM": _gpt_neox,
    "GPTBigCodeForCausalLM": _starcoder,
    "GptOssForCausalLM": _gpt_oss,
    "DeepseekV2ForCausalLM": _deepseek,
    "DeepseekV3ForCausalLM": _deepseek,
    "GPT2LMHeadCustomModel": _remote("santacoder"),
    "QWenLMHeadModel": _remote("qwen"),
    "BaiChuanForCausalLM": _remote("baichuan"),
    "BaichuanForCausalLM": _remote("baichuan"),
    "ChatGLMModel": _remote("chatglm"),
    "InternLMForCausalLM": _remote("internlm"),
    "InternLM2ForCausalLM": _remote("internlm2"),
}

BUFFERS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".inv_freq")
"""How names of tensors end that are no parameters."""
REPEATED = {"FalconForCausalLM": ("lm_head.weight",)}
"""Tensors that repeat the embedding, by architecture."""
