"""Text parts of multimodal models: their configuration inside config.json, and the names of their tensors.

    config.json     {"text_config": {...}, "vision_config": {...}}       or the text's own keys beside vision_config
    tensors         language_model.model.layers.0...                     transformers 4
                    model.language_model.layers.0...                     transformers 5
                    model.layers.0...   visual.blocks.0...               Qwen2-VL as published

Sources: configuration and modeling files of transformers 4.53 and 5.23; published files of Mistral-Small-3.1, Gemma 3,
Llama 4, Qwen2.5-VL, LLaVA 1.5 and InternVL 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CONFIG_KEYS = ("text_config", "llm_config", "language_config", "thinker_config.text_config")
"""Places of the text part's configuration in config.json."""
_INHERITED = ("torch_dtype", "dtype", "quantization_config", "bos_token_id", "eos_token_id")
"""Keys that the whole model's configuration may have for its text part."""
_TIED = "tie_word_embeddings"
"""Key that counts in the whole model's configuration: its class ties the head, the text part's is a default."""
_OF_TYPE: Mapping[str, tuple[str, str]] = {
    "gemma3_text": ("Gemma3ForCausalLM", "gemma3_text"),
    "llama4_text": ("Llama4ForCausalLM", "llama4_text"),
    "mistral4_text": ("Mistral4ForCausalLM", "mistral4"),
    "qwen2_vl": ("Qwen2ForCausalLM", "qwen2"),
    "qwen2_vl_text": ("Qwen2ForCausalLM", "qwen2"),
    "qwen2_5_vl": ("Qwen2ForCausalLM", "qwen2"),
    "qwen2_5_vl_text": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3_vl_text": ("Qwen3ForCausalLM", "qwen3"),
    "qwen3_vl_moe_text": ("Qwen3MoeForCausalLM", "qwen3_moe"),
}
"""Causal model with the mathematics of a text part, and its model type, by the text part's model type."""
_RENAMED = (("model.language_model.", "model."), ("language_model.", ""), ("model.text_model.", "model."), ("llm.", ""))
"""Beginnings of the names of a text part's tensors, and those of the causal model."""
_OWN = ("model.", "lm_head.")


@dataclass(frozen=True)
class TextPart:
    """Text part of the multimodal model `wrapper`. `config`: config.json of a causal model with its mathematics."""

    wrapper: str
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """Architecture of the causal model, or else its model type."""
        named = self.config.get("architectures")
        return str(named[0]) if named else f"a model of type `{self.config.get('model_type')}`"


def text_part(hf: Mapping[str, Any]) -> TextPart | None:
    """Text part of a multimodal config.json; None for a model of text alone, or where no text part can be told."""
    named = hf.get("architectures")
    wrapper = str(named[0]) if isinstance(named, list) and named else str(named or hf.get("model_type") or "?")
    inner = next((found for key in CONFIG_KEYS if isinstance(found := _at(hf, key), Mapping)), None)
    if inner is None:
        if "vision_config" not in hf or str(hf.get("model_type")) not in _OF_TYPE:
            return None
        inner = {key: value for key, value in hf.items() if key not in ("vision_config", "architectures")}
    config = {**inner, **{key: hf[key] for key in _INHERITED if inner.get(key) is None and key in hf}}
    if hf.get(_TIED) is not None:
        config[_TIED] = hf[_TIED]
    known = _OF_TYPE.get(str(config.get("model_type")))
    if known is not None:
        config["architectures"], config["model_type"] = [known[0]], known[1]
    return TextPart(wrapper, _plain_positions(config))


def text_names(names: Iterable[str]) -> dict[str, str]:
    """Name in the causal model of each tensor of the text part, by its name in the whole model."""
    names = list(names)
    renamed = {
        name: new + name.removeprefix(old)
        for name in names
        for old, new in [next((pair for pair in _RENAMED if name.startswith(pair[0])), ("", ""))]
        if old
    }
    own = ("lm_head.",) if renamed else _OWN
    return {**renamed, **{name: name for name in names if name not in renamed and name.startswith(own)}}


def left_out(names: Iterable[str], kept: Iterable[str]) -> Counter[str]:
    """Number of tensors that are not kept, by the beginning of their name (`vision_tower`, `model.visual`)."""
    rest = set(names) - set(kept)
    return Counter(".".join(name.split(".")[: 2 if name.startswith("model.") else 1]) for name in sorted(rest))


def _at(hf: Mapping[str, Any], path: str) -> Any:
    value: Any = hf
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _plain_positions(config: dict[str, Any]) -> dict[str, Any]:
    """Without the sections of multimodal rotary positions: on text, all sections have the same positions."""
    for key in ("rope_scaling", "rope_parameters"):
        found = config.get(key)
        if not isinstance(found, Mapping) or not any(name.startswith("mrope") for name in [*found, *_kinds(found)]):
            continue
        rest = {name: value for name, value in found.items() if not name.startswith("mrope")}
        rest = {name: "default" if value == "mrope" else value for name, value in rest.items()}
        if set(rest) <= {"type", "rope_type"} and all(value == "default" for value in rest.values()):
            config = {name: value for name, value in config.items() if name != key}
        else:
            config = {**config, key: rest}
    return config


def _kinds(found: Mapping[str, Any]) -> list[str]:
    return [str(found.get("type")), str(found.get("rope_type"))]
