"""Tiny multimodal checkpoints, written by transformers: a vision tower, a projector, the text part of a known model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_BLOCKS = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64,
           "patch_size": 14}  # fmt: skip
_TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 8, "vocab_size": 259, "max_position_embeddings": 512, "bos_token_id": 256,
    "eos_token_id": 257, "pad_token_id": 258,
}  # fmt: skip
_SECTIONS = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}

WRAPPERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral3": ("Mistral3", {
        "text_config": {"model_type": "mistral", "sliding_window": None, **_TEXT},
        "vision_config": {"model_type": "pixtral", **_VISION},
        "spatial_merge_size": 2,
    }),
    "llava": ("Llava", {
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": 32, **_VISION},
    }),
    "gemma3": ("Gemma3", {
        "text_config": {**_TEXT, "query_pre_attn_scalar": 12, "sliding_window": 16, "sliding_window_pattern": 2},
        "vision_config": {"model_type": "siglip_vision_model", **_VISION},
        "mm_tokens_per_image": 4,
    }),
    "qwen2_5_vl": ("Qwen2_5_VL", {"text_config": {**_TEXT, "rope_parameters": _SECTIONS}, "vision_config": _BLOCKS}),
    "qwen3_vl": ("Qwen3VL", {
        "text_config": {**_TEXT, "rope_parameters": {**_SECTIONS, "mrope_interleaved": True}},
        "vision_config": {**_BLOCKS, "deepstack_visual_indexes": [0]},
    }),
    "llama4": ("Llama4", {
        "text_config": {
            **_TEXT, "intermediate_size_mlp": 96, "num_local_experts": 4, "num_experts_per_tok": 1,
            "attention_chunk_size": 32, "num_hidden_layers": 4,
        },
        "vision_config": {**_VISION, "vision_output_dim": 64, "projector_input_dim": 64, "projector_output_dim": 64},
    }),
}  # fmt: skip
"""Name of transformers' classes, and configuration, by the name of the case."""


def write_wrapper(case: str, folder: Path, *, original: bool = True) -> Path:
    """Write a random bfloat16 checkpoint of the case into `folder` and return it. `original`: tensors have the names of
    published checkpoints; else those of transformers 5.
    """
    import torch
    import transformers

    from tests.tiny import fill

    name, settings = WRAPPERS[case]
    config = getattr(transformers, f"{name}Config")(**settings, tie_word_embeddings=False)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    fill(model, 0)
    model.to(torch.bfloat16).save_pretrained(folder, save_original_format=original)
    return folder
