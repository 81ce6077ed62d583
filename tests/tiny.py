"""Tiny Hugging Face configurations, one or more per recipe, and random checkpoints of them.

A case is named `<recipe>` or `<recipe>/<variant>`. The sizes are small but awkward on purpose: `head_dim` is
not `hidden / heads`, the vocabulary is odd, the sliding window is shorter than the tests' sequences. Every
recipe has a case that splits over 1, 2, 4 and 8 ranks; `llama/three-kv-heads` over 1, 3 and 6 only.

Token ids of every case: 0-255 the bytes, 256 `<s>`, 257 `</s>`, 258 `<pad>` (`tests.tiny_text`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCAB = 259
SPECIAL_IDS: dict[str, int] = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 96,
    "intermediate_size": 144,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    **SPECIAL_IDS,
}
_MISTRAL: dict[str, Any] = {
    **_LLAMA,
    "model_type": "mistral",
    "hidden_size": 80,
    "head_dim": 24,
    "num_key_value_heads": 4,
    "sliding_window": 8,
}
_MIXTRAL: dict[str, Any] = {
    **_LLAMA,
    "model_type": "mixtral",
    "hidden_size": 64,
    "intermediate_size": 72,
    "num_key_value_heads": 4,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
# Published Qwen2 configurations name a sliding window and switch it off: so does this one.
_QWEN2: dict[str, Any] = {
    **{key: value for key, value in _LLAMA.items() if key != "head_dim"},
    "model_type": "qwen2",
    "hidden_size": 128,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "sliding_window": 8,
    "max_window_layers": 3,
}
_ROPE_LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_ROPE_LINEAR: dict[str, Any] = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

TINY: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "llama/equal-heads": {**_LLAMA, "num_key_value_heads": 8},
    "llama/rope-llama3": {**_LLAMA, "rope_parameters": _ROPE_LLAMA3},
    "llama/rope-linear": {**_LLAMA, "rope_parameters": _ROPE_LINEAR},
    "llama/tied": {**_LLAMA, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "llama/biases": {**_LLAMA, "attention_bias": True, "mlp_bias": True},
    "llama/three-kv-heads": {
        **_LLAMA,
        "hidden_size": 60,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 20,
    },
    "mistral": _MISTRAL,
    "mistral/no-window": {**_MISTRAL, "sliding_window": None},
    "mixtral": _MIXTRAL,
    "mixtral/window": {**_MIXTRAL, "num_key_value_heads": 2, "sliding_window": 8},
    "qwen2": _QWEN2,
    "qwen2/tied": {**_QWEN2, "tie_word_embeddings": True},
    # The first layer attends to everything, the others through the window.
    "qwen2/window": {**_QWEN2, "use_sliding_window": True, "max_window_layers": 1},
}


def recipe_of(case: str) -> str:
    """The recipe that a case belongs to: what stands before the slash."""
    return case.partition("/")[0]


def write_checkpoint(
    case: str, folder: Path, seed: int = 0, dtype: str = "bfloat16", shards: int = 1, **overrides: Any
) -> Path:
    """Write a random checkpoint of `case` with a byte tokenizer into `folder`, and return the folder.

    The same arguments give the same bytes. `overrides` replace keys of the configuration. With `shards` > 1
    the tensors are dealt out in turns to that many files: neighbours in a layer lie in different files.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.tiny_text import byte_tokenizer, save_tokenizer

    settings = {**TINY[case], **overrides}
    config = AutoConfig.for_model(**settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model, seed)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    save_tokenizer(byte_tokenizer(), folder, max_length=settings["max_position_embeddings"])
    if shards > 1:
        _deal(folder, shards)
    return folder


def fill(model: PreTrainedModel, seed: int) -> None:
    """Give every parameter values that matter: biases not zero, norms not one, logits and routers spread."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    # A tied embedding is also the head: its scale is the logits' scale.
    spread = 0.2 if model.config.tie_word_embeddings else 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(noise * 0.3)
            elif parameter.dim() == 1:
                parameter.copy_(1 + noise * 0.2)
            elif "embed" in name:
                parameter.copy_(noise * spread)
            else:
                parameter.copy_(noise * _gain(name) * parameter.shape[-1] ** -0.5)


def _gain(name: str) -> float:
    sharp = ("lm_head", "q_proj", "k_proj", "gate.weight")
    return 2.0 if any(part in name for part in sharp) else 1.0


def _deal(folder: Path, shards: int) -> None:
    from safetensors.torch import load_file, save_file

    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names = sorted(tensors)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    for i, file in enumerate(files):
        dealt = {name: tensors[name] for name in names[i::shards]}
        save_file(dealt, folder / file, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
        "weight_map": {name: files[i % shards] for i, name in enumerate(names)},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
