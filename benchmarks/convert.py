"""`lmi-compile convert` against `cp` followed by `sync`, on the same bytes and the same disk.

    python benchmarks/convert.py [--folder DIR] [--runs 5] [--tp 8]

Writes a random bfloat16 Llama of the TinyLlama shape (22 layers, 2.2 GB) and one of four times its layers'
bytes, and converts them to the `inductor` target's rank files. A conversion is a fresh process: interpreter
start, plan, sha256 of every file and fsync are in its time. Conversions and copies alternate; the first pair
is not counted. Prints the median of each, the median of the ratios of the pairs, and the peak resident memory
of the conversions of both models. The disk needs 27 GB, all of which is removed again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

HIDDEN, FFN, VOCAB, HEADS, KV_HEADS, LAYERS = 2048, 5632, 32000, 32, 4, 22
LARGE_LAYERS = 97
"""With these many layers the model has four times the bytes: the embeddings do not grow."""

ROOT = str(Path(__file__).absolute().parents[1])
CONVERT = "import sys; from compiler.cli import main; sys.argv[0] = 'lmi-compile'; main()"


def write_checkpoint(folder: Path, layers: int) -> None:
    """A Llama of random bfloat16 values in one safetensors file."""
    import numpy as np

    from compiler.store.writer import Planned, RankFile

    head = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (VOCAB, HIDDEN)}
    for layer in range(layers):
        names: dict[str, tuple[int, ...]] = {
            "input_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * head, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * head, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "post_attention_layernorm": (HIDDEN,),
            "mlp.gate_proj": (FFN, HIDDEN),
            "mlp.up_proj": (FFN, HIDDEN),
            "mlp.down_proj": (HIDDEN, FFN),
        }
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in names.items()}
    shapes |= {"model.norm": (HIDDEN,), "lm_head": (VOCAB, HIDDEN)}
    plan: list[Planned] = [(f"{name}.weight", "BF16", shape) for name, shape in shapes.items()]
    rng = np.random.default_rng(0)
    with RankFile(folder / "model.safetensors", plan) as file:
        for _, _, shape in plan:
            left = int(np.prod(shape))
            while left:
                count = min(left, 1 << 22)
                # Bits of positive values between 2**-7 and 2**-3.
                file.append(rng.integers(0x3C00, 0x3E00, count, np.uint16).data)
                left -= count
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": FFN, "vocab_size": VOCAB, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 2048,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def run(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of a process. (This process stays small: a child's peak starts from
    it.)"""
    os.sync()
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": ROOT})
    _, status, usage = os.wait4(child.pid, 0)
    elapsed = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {child.returncode}")
    return elapsed, usage.ru_maxrss / 1024


def convert(model: Path, out: Path, tp: int) -> tuple[float, float]:
    arguments = ["convert", "--model", model, "--tp", tp, "--target", "inductor", "--output", out]
    try:
        return run([sys.executable, "-c", CONVERT, *map(str, arguments)])
    finally:
        shutil.rmtree(out, ignore_errors=True)


def copy(model: Path, out: Path) -> float:
    out.mkdir()
    try:
        return run(["sh", "-c", 'cp "$1" "$2" && sync', "sh", str(model / "model.safetensors"), str(out)])[0]
    finally:
        shutil.rmtree(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_checkpoint(Path(options.write[0]), int(options.write[1]))
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        models = {}
        for size, layers in (("1x", LAYERS), ("4x", LARGE_LAYERS)):
            models[size] = work / size
            models[size].mkdir()
            run([sys.executable, str(Path(__file__).absolute()), "--write", str(models[size]), str(layers)])
        pairs, peaks = [], []
        for _ in range(options.runs + 1):
            seconds, peak = convert(models["1x"], work / "out", options.tp)
            pairs.append((seconds, copy(models["1x"], work / "out")))
            peaks.append(peak)
        counted = pairs[1:]
        large_seconds, large_peak = convert(models["4x"], work / "out", options.tp)
        large_copy = copy(models["4x"], work / "out")
    ours, theirs = (statistics.median(column) for column in zip(*counted, strict=True))
    ratio = statistics.median(a / b for a, b in counted)
    spread = ", ".join(f"{a:.2f}/{b:.2f}" for a, b in counted)
    print(f"convert, tp {options.tp}   {ours:6.2f} s   peak {max(peaks):5.0f} MiB")
    print(f"cp && sync       {theirs:6.2f} s")
    print(f"ratio            {ratio:6.2f}     pairs, in seconds: {spread}")
    print(f"4x model         {large_seconds:6.2f} s   peak {large_peak:5.0f} MiB   cp && sync {large_copy:.2f} s")


if __name__ == "__main__":
    main()
