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
        **gemma2.DEFAULTS,
        "vocab_size": 262208, "max_position_embeddings": 131072, "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0, "final_logit_softcapping": None,
    },
    config=replace(
        gemma2.RECIPE.config,
        attention_softcap=(),  # the code of the class does not apply `attn_logit_softcapping`
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
