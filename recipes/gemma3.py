"""Gemma 3, text: Gemma 2 with norms of q and k instead of softcaps; five layers with a window and a theta of their own,
then one without.
"""

from dataclasses import replace

from compiler.model import Layers, Map
from recipes import gemma2

L = gemma2.L
RECIPE = replace(
    gemma2.RECIPE,
    hf_architectures=("Gemma3ForCausalLM",),
    models={
        "gemma3-270m": "google/gemma-3-270m",
        "gemma3-270m-it": "google/gemma-3-270m-it",
        "gemma3-1b": "google/gemma-3-1b-pt",
        "gemma3-1b-it": "google/gemma-3-1b-it",
    },
    model_types=("gemma3_text",),
    defaults={
        "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0, "tie_word_embeddings": True, "attention_bias": False,
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "final_logit_softcapping": None,
    },
    config=replace(
        gemma2.RECIPE.config,
        attention_softcap=(),  # transformers and vLLM do not read it here
        local_rope_theta=("local_rope_parameters.rope_theta", "rope_local_base_freq"),
    ),
    traits=replace(
        gemma2.RECIPE.traits,
        qk_norm=True,
        windowed=Layers("layer_types", "sliding_attention", every=6, period="sliding_window_pattern"),
    ),
    weights=(
        *gemma2.RECIPE.weights,
        Map(L + "self_attn.q_norm", "attn.q_norm"),
        Map(L + "self_attn.k_norm", "attn.k_norm"),
    ),
)  # fmt: skip
