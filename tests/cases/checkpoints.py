"""The tiny Llama-like checkpoint that most cases deviate from, and its logits by this project and by transformers.

Hidden 64, 8 heads, 4 kv heads, 2 layers, 259 tokens (`benchmarks.testbed.text`: 256 bytes, `<s>`, `</s>`, `<pad>`),
512 positions, bfloat16.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import recipes
from tests.tiny import random

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class _Absent:
    """Type of ABSENT."""


ABSENT: Final = _Absent()
"""Value of a change that removes the key or the tensor."""

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 259,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "torch_dtype": "bfloat16",
}
"""config.json of the checkpoint, in the spelling of transformers 4."""


def write(folder: Path, config: Mapping[str, Any] | None = None, tensors: Mapping[str, Any] | None = None) -> Path:
    """Write config.json, model.safetensors and a byte tokenizer into `folder`, which is made; return the folder.

    Changes: `config` and `tensors` replace or add keys of config.json and tensors; the value ABSENT removes one. The
    sizes of the other tensors follow the changed config. Equal arguments give equal bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = _changed(CONFIG, config or {})
    write_json(folder / "config.json", settings)
    write_weights(folder / "model.safetensors", _changed(weights({**CONFIG, **settings}), tensors or {}))
    write_tokenizer(folder)
    return folder


def write_json(path: Path, value: Any) -> None:
    """Write `value` as an indented JSON file."""
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` as a safetensors file in the form of a Hugging Face checkpoint."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of the byte tokenizer."""
    from benchmarks.testbed.text import byte_tokenizer, save_tokenizer

    save_tokenizer(byte_tokenizer(), folder, max_length=512)


def weights(settings: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random bfloat16 tensors with the names and shapes of a Llama with this config.json."""
    import torch

    hidden, inner, vocab = settings["hidden_size"], settings["intermediate_size"], settings["vocab_size"]
    heads = settings["num_attention_heads"]
    size = settings.get("head_dim") or hidden // heads
    kv_heads = settings.get("num_key_value_heads") or heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(settings["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.self_attn.q_proj.weight": (heads * size, hidden),
            f"{at}.self_attn.k_proj.weight": (kv_heads * size, hidden),
            f"{at}.self_attn.v_proj.weight": (kv_heads * size, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, heads * size),
            f"{at}.post_attention_layernorm.weight": (hidden,),
            f"{at}.mlp.gate_proj.weight": (inner, hidden),
            f"{at}.mlp.up_proj.weight": (inner, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, inner),
        }
    tied = bool(settings.get("tie_word_embeddings"))
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    generator = torch.Generator().manual_seed(seed)
    return {name: random(name, shape, generator, tied=tied).bfloat16() for name, shape in shapes.items()}


def own_logits(folder: Path, ids: Tensor, recipe: str | None = None, positions: int | None = None) -> Tensor:
    """Logits float32 [rows, tokens, vocab] for `ids` int64 [rows, tokens]: the decoder on the rank file that a
    conversion to float32 writes. `positions`: those of the build. Raises LmiCompileError where the project refuses the
    checkpoint.
    """
    from safetensors.torch import load_file

    from compiler.decoder.forward import forward
    from compiler.pipeline.convert_only import convert_to
    from compiler.pipeline.request import Ask, PlanRequest

    with tempfile.TemporaryDirectory() as scratch:
        request = PlanRequest(
            model=str(folder),
            recipes=recipes,
            recipe=recipe,
            ask=Ask(dtype="float32", max_positions=positions),
            cache=Path(scratch) / "cache",
        )
        plan = convert_to(request, Path(scratch) / "out")
        (rank,) = plan.ranks
        return forward(plan.config, load_file(Path(scratch) / "out" / rank.file), ids)


def transformers_logits(folder: Path, ids: Tensor) -> Tensor:
    """Logits float32 [rows, tokens, vocab] of the same folder by transformers, computed in float32."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits: Tensor = model(ids).logits.float()
    return logits


def difference(folder: Path, tokens: int = 48, rows: int = 1, recipe: str | None = None) -> float:
    """Compare `own_logits` with `transformers_logits` at `rows` x `tokens` random ids: max |difference| / max |logit|.

    Equal computations give at most about 2e-6.
    """
    import torch

    vocab = json.loads((folder / "config.json").read_bytes())["vocab_size"]
    ids = torch.randint(0, vocab, (rows, tokens), generator=torch.Generator().manual_seed(1))
    own, expected = own_logits(folder, ids, recipe), transformers_logits(folder, ids)
    return float((own - expected).abs().max() / expected.abs().max())


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**values, **changes}.items() if value is not ABSENT}
