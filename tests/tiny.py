"""Random checkpoints of the tiny cases. Transformers writes what it knows; of the others `tests.reference` has the
published names.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import recipes
from compiler.model.config import ModelConfig
from tests import reference, tiny_configs
from tests.tiny_configs import SPECIAL_IDS, VOCAB
from tests.tiny_families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor
    from transformers import PreTrainedModel

__all__ = ["SPECIAL_IDS", "TINY", "VOCAB", "fill", "model_config", "recipe_of", "write_checkpoint", "write_weights"]

TINY = tiny_configs.TINY | FAMILIES


def recipe_of(case: str) -> str:
    """The recipe that a case belongs to: what stands before the slash."""
    return case.partition("/")[0]


def model_config(case: str, **overrides: Any) -> ModelConfig:
    """What the recipe of a case reads from its configuration."""
    hf = {**TINY[case], **overrides}
    return recipes.load(recipe_of(case)).resolve(hf).model_config(hf)


def write_checkpoint(
    case: str, folder: Path, seed: int = 0, dtype: str = "bfloat16", shards: int = 1, **overrides: Any
) -> Path:
    """Write a random checkpoint of `case` with a byte tokenizer into `folder`, and return the folder.

    The same arguments give the same bytes. `overrides` replace keys of the configuration. With `shards` > 1
    the tensors are dealt out in turns to that many files: neighbours in a layer lie in different files.
    """
    from benchmarks.testbed.text import byte_tokenizer, save_tokenizer

    write_weights(case, {**TINY[case], **overrides}, folder, seed, dtype)
    save_tokenizer(byte_tokenizer(), folder, max_length=model_config(case, **overrides).max_positions)
    if shards > 1:
        _deal(folder, shards)
    return folder


def write_weights(case: str, settings: dict[str, Any], folder: Path, seed: int, dtype: str) -> None:
    """config.json and random weights of `case` with the configuration `settings`."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    own = reference.load(recipe_of(case))
    if own is None:
        config = AutoConfig.for_model(**settings)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        fill(model, seed)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        if "architectures" in settings:  # transformers writes the name of its own class
            written = json.loads((folder / "config.json").read_text()) | {"architectures": settings["architectures"]}
            (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**settings, "torch_dtype": dtype}, indent=2) + "\n")
    generator = torch.Generator().manual_seed(seed)
    tied = not any("lm_head" in name or "output" in name for name in own.shapes(settings))
    tensors = {
        name: random(name, shape, generator, tied=tied).to(getattr(torch, dtype))
        for name, shape in own.shapes(settings).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def fill(model: PreTrainedModel, seed: int) -> None:
    """Give every parameter values that matter."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(random(name, parameter.shape, generator, tied=model.config.tie_word_embeddings))
        for name, buffer in model.named_buffers():
            if name.endswith("correction_bias"):  # zeros in a model that was not trained
                buffer.copy_(random(name, buffer.shape, generator, tied=False))


def random(name: str, shape: Sequence[int], generator: Generator, *, tied: bool) -> Tensor:
    """Values that matter, float32: biases not zero, norms not one, logits and routers spread."""
    import torch

    noise: Tensor = torch.randn(tuple(shape), generator=generator)
    if name.endswith("bias"):
        return noise * 0.3
    if len(shape) == 1:
        return 1 + noise * 0.2
    if any(part in name for part in ("embed", "wte", "wpe")) and "embed_out" not in name:
        # A tied embedding is also the head: its scale is the logits' scale.
        return noise * (0.2 if tied else 0.5)
    return noise * (_gain(name) * math.sqrt(1 / shape[-1]))


def _gain(name: str) -> float:
    sharp = (
        "lm_head",
        "output",
        "q_proj",
        "k_proj",
        "gate.weight",
        "c_attn",
        "q_attn",
        "qkv",
        "query_key",
        "embed_out",
        "W_pack",
    )
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
