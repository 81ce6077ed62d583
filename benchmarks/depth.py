"""Time to compile by depth: a Llama of 4 layers against one of 32, all other sizes equal.

    python -m benchmarks.depth [--runs 3]

Each run is a fresh process that compiles every package of the model, with an empty cache; the two depths alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from benchmarks.tinyllama import ROOT, machine

_COMPILE = """
import json, sys, tempfile
from pathlib import Path
from compiler.model.limits import Limits
from compiler.targets.inductor.build import compile_segments
from compiler.decoder.segments import specs
from recipes import for_config
hf = json.loads(sys.argv[1])
config = for_config(hf)[1].model_config(hf)
with tempfile.TemporaryDirectory() as out:
    found = specs(config, 1, "bfloat16", Limits(2048))
    compile_segments(found, Path(out), device="cpu", march="x86-64-v3")
    print(len(found), sum(file.stat().st_size for file in Path(out).iterdir()))
"""


def compile_once(layers: int) -> tuple[float, str]:
    """Compile all packages: seconds, number and bytes of the packages."""
    hf = {
        "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 512, "intermediate_size": 1408,
        "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": layers, "vocab_size": 32000,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
    }  # fmt: skip
    begun = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", _COMPILE, json.dumps(hf)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return time.monotonic() - begun, run.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    pairs = []
    sizes = ("", "")
    for _ in range(options.runs):
        (shallow, few), (deep, many) = compile_once(4), compile_once(32)
        pairs.append((shallow, deep))
        sizes = (few, many)
    print(machine())
    ratio = statistics.median(deep / shallow for shallow, deep in pairs)
    print(f"32 layers / 4 layers: {ratio:.2f}; pairs, in seconds: {', '.join(f'{a:.1f}/{b:.1f}' for a, b in pairs)}")
    print(f"packages and their bytes: {sizes[0]} at 4 layers, {sizes[1]} at 32")


if __name__ == "__main__":
    main()
