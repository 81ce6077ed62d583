"""Names and shapes of published checkpoints of the architectures in `tests.tiny_families`, by architecture."""

from __future__ import annotations

from collections.abc import Callable

from tests.shapes import Config, Shapes, linear, norm


def _llama_like(
    hf: Config,
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm"),
    *,
    bias: bool = False,
    qkv_bias: bool = False,
    head_norms: bool = False,
    tied: bool = True,
) -> Shapes:
    """Gated mlp, four matrices of attention. `bias`: that of the norms."""
    hidden, ffn, vocab = hf["hidden_size"], hf["intermediate_size"], hf["vocab_size"]
    dim = hf.get("head_dim") or hidden // hf["num_attention_heads"]
    q, kv = hf["num_attention_heads"] * dim, hf["num_key_value_heads"] * dim
    found = linear("model.embed_tokens", vocab, hidden) | norm("model.norm", hidden, bias=bias)
    if not tied:
        found |= linear("lm_head", vocab, hidden)
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name in norms:
            found |= norm(layer + name, hidden, bias=bias)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            found |= linear(f"{layer}self_attn.{name}_proj", rows, hidden, bias=qkv_bias)
        found |= linear(layer + "self_attn.o_proj", hidden, q)
        if head_norms:
            found |= norm(layer + "self_attn.q_norm", dim) | norm(layer + "self_attn.k_norm", dim)
        found |= linear(layer + "mlp.gate_proj", ffn, hidden) | linear(layer + "mlp.up_proj", ffn, hidden)
        found |= linear(layer + "mlp.down_proj", hidden, ffn)
    return found


GEMMA_NORMS = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
)  # fmt: skip


def _stablelm(hf: Config) -> Shapes:
    return _llama_like(hf, bias=True, qkv_bias=hf["use_qkv_bias"], tied=False)


def _phi(hf: Config) -> Shapes:
    hidden, ffn, vocab = hf["hidden_size"], hf["intermediate_size"], hf["vocab_size"]
    found = linear("model.embed_tokens", vocab, hidden) | norm("model.final_layernorm", hidden, bias=True)
    found |= linear("lm_head", vocab, hidden, bias=True)
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        found |= norm(layer + "input_layernorm", hidden, bias=True)
        for name in ("q_proj", "k_proj", "v_proj", "dense"):
            found |= linear(f"{layer}self_attn.{name}", hidden, hidden, bias=True)
        found |= linear(layer + "mlp.fc1", ffn, hidden, bias=True) | linear(layer + "mlp.fc2", hidden, ffn, bias=True)
    return found


def _falcon(hf: Config) -> Shapes:
    """The head is the embedding, and the checkpoints have it twice."""
    hidden, vocab, bias = hf["hidden_size"], hf["vocab_size"], hf["bias"]
    dim = hidden // hf["num_attention_heads"]
    grouped = hf["new_decoder_architecture"]
    kv_heads = hf["num_kv_heads"] if grouped else 1 if hf["multi_query"] else hf["num_attention_heads"]
    norms = ["ln_attn", "ln_mlp"] if grouped else ["input_layernorm"]
    if not hf["parallel_attn"]:
        norms.append("post_attention_layernorm")
    found = linear("transformer.word_embeddings", vocab, hidden) | norm("transformer.ln_f", hidden, bias=True)
    found |= linear("lm_head", vocab, hidden)
    for i in range(hf["num_hidden_layers"]):
        layer = f"transformer.h.{i}."
        for name in norms:
            found |= norm(layer + name, hidden, bias=True)
        found |= linear(layer + "self_attention.query_key_value", hidden + 2 * kv_heads * dim, hidden, bias=bias)
        found |= linear(layer + "self_attention.dense", hidden, hidden, bias=bias)
        found |= linear(layer + "mlp.dense_h_to_4h", 4 * hidden, hidden, bias=bias)
        found |= linear(layer + "mlp.dense_4h_to_h", hidden, 4 * hidden, bias=bias)
    return found


def _opt(hf: Config) -> Shapes:
    hidden, ffn, positions = hf["hidden_size"], hf["ffn_dim"], hf["max_position_embeddings"]
    found = linear("model.decoder.embed_tokens", hf["vocab_size"], hidden)
    found |= linear("model.decoder.embed_positions", positions + 2, hidden)
    found |= norm("model.decoder.final_layer_norm", hidden, bias=True)
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.decoder.layers.{i}."
        found |= norm(layer + "self_attn_layer_norm", hidden, bias=True)
        found |= norm(layer + "final_layer_norm", hidden, bias=True)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{layer}self_attn.{name}", hidden, hidden, bias=True)
        found |= linear(layer + "fc1", ffn, hidden, bias=True) | linear(layer + "fc2", hidden, ffn, bias=True)
    return found


def _bloom(hf: Config) -> Shapes:
    """As the hub has it: without a prefix."""
    hidden = hf["n_embed"]
    found = linear("word_embeddings", hf["vocab_size"], hidden)
    found |= norm("word_embeddings_layernorm", hidden, bias=True) | norm("ln_f", hidden, bias=True)
    for i in range(hf["n_layer"]):
        layer = f"h.{i}."
        found |= norm(layer + "input_layernorm", hidden, bias=True)
        found |= norm(layer + "post_attention_layernorm", hidden, bias=True)
        found |= linear(layer + "self_attention.query_key_value", 3 * hidden, hidden, bias=True)
        found |= linear(layer + "self_attention.dense", hidden, hidden, bias=True)
        found |= linear(layer + "mlp.dense_h_to_4h", 4 * hidden, hidden, bias=True)
        found |= linear(layer + "mlp.dense_4h_to_h", hidden, 4 * hidden, bias=True)
    return found


def _mpt(hf: Config) -> Shapes:
    hidden = hf["d_model"]
    found = linear("transformer.wte", hf["vocab_size"], hidden) | norm("transformer.norm_f", hidden)
    for i in range(hf["n_layers"]):
        layer = f"transformer.blocks.{i}."
        found |= norm(layer + "norm_1", hidden) | norm(layer + "norm_2", hidden)
        found |= linear(layer + "attn.Wqkv", 3 * hidden, hidden) | linear(layer + "attn.out_proj", hidden, hidden)
        found |= linear(layer + "ffn.up_proj", 4 * hidden, hidden)
        found |= linear(layer + "ffn.down_proj", hidden, 4 * hidden)
    return found


FAMILY_SHAPES: dict[str, Callable[[Config], Shapes]] = {
    "Gemma2ForCausalLM": lambda hf: _llama_like(hf, GEMMA_NORMS),
    "Gemma3ForCausalLM": lambda hf: _llama_like(hf, GEMMA_NORMS, head_norms=True),
    "GraniteForCausalLM": _llama_like,
    "SmolLM3ForCausalLM": _llama_like,
    "Cohere2ForCausalLM": lambda hf: _llama_like(hf, ("input_layernorm",)),
    "StableLmForCausalLM": _stablelm,
    "PhiForCausalLM": _phi,
    "FalconForCausalLM": _falcon,
    "OPTForCausalLM": _opt,
    "BloomModel": _bloom,
    "MPTForCausalLM": _mpt,
}
