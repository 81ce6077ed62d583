"""Conversion of a Mixtral-8x7B of two layers to a TensorRT-LLM checkpoint at tp 8, against `cp` followed by `sync`.

    python -m benchmarks.mixtral --work DIR [--runs 5] [--tp 8]

Random bfloat16 weights of the published widths (4096, 14336, 8 experts, vocabulary 32000): 6.3 GB, kept in `--work`. A
conversion is a fresh process: its time includes interpreter start, plan, sha256 of every file and fsync. Conversions
and copies alternate; the first pair is not counted. Prints the medians, the rate of `convert` relative to the copy
(median of the pairs), and the peak resident memory; then the judge's over the ranks. Also prints the memory for the
whole model of 32 layers: a file with the header of 93 GB and no data is planned in a fresh process, and the buffers of
`convert` follow from the plan.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import struct
import subprocess
import sys
from pathlib import Path

from benchmarks.convert import copy, run
from benchmarks.tinyllama import ROOT, machine, write_random

HIDDEN, FFN, VOCAB, HEADS, KV_HEADS, EXPERTS, LAYERS, ALL_LAYERS = 4096, 14336, 32000, 32, 8, 8, 2, 32
CEILING = "128MiB"
"""Number of buffers per thread; interpreter and plan take additional memory."""

PLAN = """
import resource, sys
import recipes
from compiler.pipeline.rank_files import BUFFERS, _budget
from compiler.pipeline.request import Ask, PlanRequest
from compiler.pipeline.located import plan_of
from compiler.cli.parse import parse_size
ask = Ask(tp=int(sys.argv[2]))
plan = plan_of(PlanRequest(model=sys.argv[1], recipes=recipes, target="trtllm", ask=ask))
threads, block = _budget(plan.ranks, parse_size(sys.argv[3]), 2)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
size = sum(rank.nbytes for rank in plan.ranks) / 1e9
print(f"{plan.config.layers} layers, {size:.1f} GB: plan {peak} MiB, buffers {threads * BUFFERS * block >> 20} MiB")
"""
"""Program that prints the memory of a process after planning, and that of the buffers of `convert`."""


JUDGE = """
import sys
from pathlib import Path
import numpy as np
import recipes
from compiler.pipeline.request import PlanRequest
from compiler.pipeline.located import plan_of
from compiler.targets.trtllm.runtime import judge_of
config = plan_of(PlanRequest(model=sys.argv[1], recipes=recipes, target="trtllm")).config
found = judge_of(Path(sys.argv[2]), config, 1 << 30).logits(np.arange(48))
assert found.shape == (48, config.vocab) and np.isfinite(found).all()
"""
"""Program that runs the judge over the ranks of a conversion, 48 tokens."""


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a Mixtral, by name."""
    head = HIDDEN // HEADS
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(layers):
        names = {
            "input_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * head, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * head, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "post_attention_layernorm": (HIDDEN,),
            "block_sparse_moe.gate": (EXPERTS, HIDDEN),
        }
        for expert in range(EXPERTS):
            at = f"block_sparse_moe.experts.{expert}."
            names |= {f"{at}w1": (FFN, HIDDEN), f"{at}w2": (HIDDEN, FFN), f"{at}w3": (FFN, HIDDEN)}
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in names.items()}
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}


def write_config(folder: Path, layers: int) -> None:
    config = {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": FFN, "vocab_size": VOCAB, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 32768,
        "num_local_experts": EXPERTS, "num_experts_per_tok": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "sliding_window": None, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def write_header(folder: Path, layers: int) -> None:
    """Write a checkpoint of the right size that takes no disk space: its data are a hole in the file."""
    folder.mkdir(parents=True)
    header, end = {}, 0
    for name, shape in shapes(layers).items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    write_config(folder, layers)


def convert(model: Path, out: Path, tp: int) -> tuple[float, float]:
    arguments = ["convert", "--model", model, "--tp", tp, "--target", "trtllm", "--output", out]
    return run([sys.executable, "-m", "compiler", *map(str, arguments), "--max-memory", CEILING])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="keeps the checkpoint; 20 GB are used on the way")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tp", type=int, default=8)
    options = parser.parse_args()
    model, whole, out = (options.work.absolute() / name for name in ("mixtral-2-layers", "mixtral-header", "out"))
    if not (model / "config.json").exists():
        shutil.rmtree(model, ignore_errors=True)
        write_random(model, shapes(LAYERS))
        write_config(model, LAYERS)
    print(machine())
    pairs, peaks = [], []
    for _ in range(options.runs + 1):
        seconds, peak = convert(model, out, options.tp)
        shutil.rmtree(out)
        pairs.append((seconds, copy(model, out)))
        peaks.append(peak)
    counted = pairs[1:]
    if counted:
        ours, theirs = (statistics.median(column) for column in zip(*counted, strict=True))
        rate = statistics.median(theirs / ours for ours, theirs in counted)
        spread = ", ".join(f"{a:.2f}/{b:.2f}" for a, b in counted)
        print(f"convert, tp {options.tp}   {ours:6.2f} s   peak {max(peaks):5.0f} MiB")
        print(f"cp && sync       {theirs:6.2f} s")
        print(f"rate             {rate:6.2f}     pairs, in seconds: {spread}", flush=True)
    convert(model, out, options.tp)
    seconds, peak = run([sys.executable, "-c", JUDGE, str(model), str(out)])
    shutil.rmtree(out)
    print(f"judge            {seconds:6.2f} s   peak {peak:5.0f} MiB", flush=True)
    if not whole.exists():
        write_header(whole, ALL_LAYERS)
    for folder in (model, whole):
        subprocess.run([sys.executable, "-c", PLAN, str(folder), str(options.tp), CEILING], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
