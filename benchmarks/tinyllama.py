"""Model of the benchmarks: a Llama of the TinyLlama shape (2.2 GB in bfloat16) with random weights."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HIDDEN, FFN, VOCAB, HEADS, KV_HEADS, LAYERS = 2048, 5632, 32000, 32, 4, 22
ROOT = Path(__file__).resolve().parents[1]


def write_checkpoint(folder: Path, layers: int = LAYERS) -> None:
    """Write config.json and one safetensors file into the new folder `folder`, with normally distributed weights."""
    write_llama(folder, {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": FFN, "vocab_size": VOCAB, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 2048,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    })  # fmt: skip


def write_llama(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a checkpoint of the Llama that `config` (of transformers) describes, in bfloat16, as `write_checkpoint`."""
    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = config["num_key_value_heads"] * hidden // config["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        names = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
        }
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in names.items()}
    shapes |= {"model.norm": (hidden,), "lm_head": (vocab, hidden)}
    write_random(folder, {f"{name}.weight": shape for name, shape in shapes.items()})
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))


def write_random(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write model.safetensors of bfloat16 tensors to the new folder `folder`, 16 MiB of values in memory at a time."""
    import numpy as np

    from compiler.storage.files.writer import Planned, RankFileWriter

    folder.mkdir(parents=True)
    plan: list[Planned] = [(name, "BF16", shape) for name, shape in shapes.items()]
    rng = np.random.default_rng(0)
    with RankFileWriter(folder / "model.safetensors", plan) as file:
        for _, _, shape in plan:
            left = int(np.prod(shape))
            while left:
                count = min(left, 1 << 22)
                values = rng.standard_normal(count, np.float32)
                values *= 0.02
                values += len(shape) == 1  # norms
                file.append((values.view(np.uint32) >> 16).astype(np.uint16).data)
                left -= count


def weight_bytes_of_a_token() -> int:
    """Bytes of the weights that a decode step reads: all except the embedding table."""
    layer = HIDDEN * (2 * HIDDEN + 2 * KV_HEADS * HIDDEN // HEADS + 3 * FFN)
    return 2 * (LAYERS * layer + VOCAB * HIDDEN)


def prepared(work: Path) -> tuple[Path, Path]:
    """Checkpoint and artifact in `work`, made if they are missing."""
    checkpoint, artifact = work / "tinyllama", work / "tinyllama-artifact"
    if not (checkpoint / "config.json").exists():
        write_checkpoint(checkpoint)
    if not artifact.exists():
        run_cli("build", "--model", str(checkpoint), "--output", str(artifact), cache=work / "cache")
    return checkpoint, artifact


def run_cli(*arguments: str, cache: Path) -> None:
    """Run `lmi-compile` in a process of its own, with a stage cache of its own."""
    subprocess.run(
        [sys.executable, "-m", "compiler", *arguments],
        check=True, cwd=ROOT, env={**os.environ, "LMI_COMPILE_CACHE": str(cache)},
    )  # fmt: skip


def machine() -> str:
    """Text of date, processor and cores, for the first line of a result."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{datetime.now(UTC):%Y-%m-%d}, {names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
