"""Baichuan 1 and 2: Llama with q, k, v in one matrix. The 13B have alibi positions, generation 2 a normalized head."""

from dataclasses import replace

from compiler.model import ConfigMap, Constant, Map, Recipe, Traits, Variant

L = "model.layers.{layer}."
SMALL = ConfigMap(kv_heads="num_attention_heads", rope_theta=Constant(10000.0), rope_section=False)
LARGE = replace(SMALL, max_positions="model_max_length")
ALIBI = Traits(position="alibi")
RECIPE = Recipe(
    hf_architectures=("BaiChuanForCausalLM", "BaichuanForCausalLM"),
    models={
        "baichuan-7b": "baichuan-inc/Baichuan-7B",
        "baichuan-13b": "baichuan-inc/Baichuan-13B-Base",
        "baichuan2-7b": "baichuan-inc/Baichuan2-7B-Base",
        "baichuan2-13b": "baichuan-inc/Baichuan2-13B-Base",
    },
    model_types=("baichuan",),
    # configuration_baichuan.py of the published checkpoints, 2023.
    defaults={
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "model_max_length": 4096,
        "tie_word_embeddings": False,
    },
    config=SMALL,
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.W_pack", ("attn.q", "attn.k", "attn.v")),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.gate_proj", "mlp.gate"),
        Map(L + "mlp.up_proj", "mlp.up"),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
    ignore=("*.rotary_emb.inv_freq",),
    assumes={"z_loss_weight": ()},  # generation 1 has none
    # A fine-tune may have another vocabulary than generation 2's; then the loss that it was trained with tells.
    variants=(
        Variant("v2-13b", {"num_attention_heads": 40, "vocab_size": 125696},
                replace(ALIBI, head="l2_rows"), LARGE, assumes={}),
        Variant("v2-13b", {"num_attention_heads": 40, "z_loss_weight": 0},
                replace(ALIBI, head="l2_rows"), LARGE, assumes={}),
        Variant("v2-7b", {"vocab_size": 125696}, Traits(head="l2_rows"), assumes={}),
        Variant("v2-7b", {"z_loss_weight": 0}, Traits(head="l2_rows"), assumes={}),
        Variant("v1-13b", {"num_attention_heads": 40}, ALIBI, LARGE),
        Variant("v1-7b", {}),
    ),
)  # fmt: skip
