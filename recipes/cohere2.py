"""Command R7B and Command A: Command R with a window and rotary positions in three of four layers; the fourth has
neither.
"""

from dataclasses import replace

from compiler.model import Layers
from recipes import cohere

RECIPE = replace(
    cohere.RECIPE,
    hf_architectures=("Cohere2ForCausalLM",),
    models={
        "command-r7b": "CohereLabs/c4ai-command-r7b-12-2024",
        "command-a": "CohereLabs/c4ai-command-a-03-2025",
    },
    model_types=("cohere2",),
    defaults={
        "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
        "num_attention_heads": 64, "hidden_act": "silu", "max_position_embeddings": 8192, "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0, "logit_scale": 0.0625, "attention_bias": False, "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    config=replace(cohere.RECIPE.config, sliding_window="sliding_window"),
    traits=replace(
        cohere.RECIPE.traits,
        qk_norm=False,
        windowed=Layers("layer_types", "sliding_attention", every=4, period="sliding_window_pattern"),
        rotated="windowed",
    ),
    assumes={"use_qk_norm": False},
)  # fmt: skip
