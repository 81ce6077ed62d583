"""Command R7B and Command A: Command R with a window and rotary positions in three of four layers; the fourth has
neither.
"""

from dataclasses import replace

from compiler.model import Default, Layers
from recipes import cohere

RECIPE = replace(
    cohere.RECIPE,
    hf_architectures=("Cohere2ForCausalLM",),
    models={
        "command-r7b": "CohereLabs/c4ai-command-r7b-12-2024",
        "command-a": "CohereLabs/c4ai-command-a-03-2025",
    },
    # Absent keys have the values of transformers' Cohere2Config.
    config=replace(
        cohere.RECIPE.config,
        max_positions=Default("max_position_embeddings", value=8192),
        norm_eps=Default("layer_norm_eps", value=1e-5),
        rope_theta=("rope_theta", Default("rope_parameters.rope_theta", value=10000.0)),
        head_dim=(),
        sliding_window=Default("sliding_window", value=4096),
    ),
    traits=replace(
        cohere.RECIPE.traits,
        qk_norm=False,
        windowed=Layers("layer_types", "sliding_attention", every=4, period="sliding_window_pattern"),
        rotated="windowed",
    ),
    assumes={"use_qk_norm": False},
)
