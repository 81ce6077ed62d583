"""Models that no recipe reads, for targets whose toolchain reads a checkpoint itself: sizes, and no mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compiler.errors import RefusedError
from compiler.model.account import Account
from compiler.model.config import ModelConfig
from compiler.model.header import Header
from compiler.model.lazy import whole
from compiler.model.recipe import Recipe
from compiler.model.roles import TensorId
from compiler.model.rope import RopeScaling

UNKNOWN = "unknown"
"""Name of the recipe in plans and manifests."""
POSITIONS = 2048
"""Tokens of a row where config.json states none."""
_KEYS: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "num_attention_heads", "n_head", "n_heads"),
    "head_dim": ("head_dim",),
    "vocab": ("vocab_size", "padded_vocab_size"),
    "max_positions": (
        "max_position_embeddings",
        "n_positions",
        "seq_length",
        "max_sequence_length",
        "model_max_length",
    ),
}
"""Usual keys of each size, in config.json or in its `text_config`."""


@dataclass(frozen=True)
class UnknownModel(Recipe):
    """Stand-in for the recipe of a model that none reads: `model_config` has the sizes that config.json states."""

    def resolve(self, _hf: Mapping[str, Any], variant: str | None = None) -> UnknownModel:
        """This; raises RefusedError for a variant."""
        if variant is not None:
            raise RefusedError(
                f"no recipe reads {self.hf_architectures[0]}; found `--variant {variant}`", hint="leave it out"
            )
        return self

    def model_config(
        self, hf: Mapping[str, Any], rope_scaling: RopeScaling | None = None, stored_dtype: str = "float32"
    ) -> ModelConfig:
        """Sizes by their usual keys; 0 or 1 where there is none. Raises RefusedError for `rope_scaling`."""
        if rope_scaling is not None:
            raise RefusedError(
                f"no recipe reads {self.hf_architectures[0]}; found `--rope-scaling`",
                hint="write the scaling into its config.json",
            )
        sizes = sizes_of(hf)
        heads, hidden = sizes.get("heads", 1), sizes.get("hidden", 1)
        dtype = hf.get("dtype") or hf.get("torch_dtype") or _text(hf).get("dtype") or stored_dtype
        return ModelConfig(
            architecture=self.hf_architectures[0],
            layers=sizes.get("layers", 1),
            hidden=hidden,
            heads=heads,
            kv_heads=sizes.get("kv_heads", heads),
            head_dim=sizes.get("head_dim", max(hidden // heads, 1)),
            ffn=0,
            vocab=sizes.get("vocab", 1),
            norm_eps=0.0,
            max_positions=sizes.get("max_positions", POSITIONS),
            dtype=str(dtype),
        )


def unknown_model(hf: Mapping[str, Any]) -> UnknownModel:
    """Stand-in for the recipe of config.json `hf`."""
    named = hf.get("architectures")
    names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    known = [name for name in names if isinstance(name, str)] or [str(hf.get("model_type", UNKNOWN))]
    return UnknownModel(hf_architectures=(known[0],), models={}, weights=())


def sizes_of(hf: Mapping[str, Any]) -> dict[str, int]:
    """Sizes that config.json states, by the fields of ModelConfig."""
    found = {}
    for name, keys in _KEYS.items():
        values = [part.get(key) for part in (hf, _text(hf)) for key in keys]
        sizes = [value for value in values if type(value) is int and value > 0]
        if sizes:
            found[name] = sizes[0]
    return found


def unknown_notes(recipe: Recipe, hf: Mapping[str, Any], architecture: str, reason: str) -> tuple[str, ...]:
    """Sentences about what a plan of copied files does not know. `reason`: why they are copied."""
    first = f"{architecture}: {reason}; the checkpoint is packed as it is, complete and in order"
    if not isinstance(recipe, UnknownModel):
        return first, "not known here: whether the server has this architecture; its logits are not compared"
    absent = sorted(_KEYS.keys() - sizes_of(hf).keys() - {"head_dim", "kv_heads"})
    lacks = f"; config.json states no {', '.join(absent)} under a usual key" if absent else ""
    unknown = "whether the server has this architecture and can split it, its logits, and the memory of its cache"
    return first, f"not known here: {unknown} (the figures are those of plain attention){lacks}"


def copied(headers: Mapping[str, Header]) -> Account:
    """Account of a checkpoint whose tensors keep their names: each is a canonical tensor of that name."""
    tensors = {
        TensorId(name, "file"): whole(name, tuple(header.shape), header.dtype) for name, header in headers.items()
    }
    return Account(tensors, (), (), ())


def _text(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    found = hf.get("text_config")
    return found if isinstance(found, Mapping) else {}
