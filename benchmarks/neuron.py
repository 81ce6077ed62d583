"""Graphs for NeuronCores: seconds and memory of planning and of lowering Llama-2-70B, without weights or devices.

    python -m benchmarks.neuron [--tp 24] [--batch 4] [--bucket 2048]

Each measurement is a fresh process; its time is that of the step, its memory the peak of the process, torch and jax
included. The bytes of the graphs are compared between two processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

LLAMA_2_70B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 8192,
    "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
"""Published configuration of meta-llama/Llama-2-70b-hf."""

STEP = """
import hashlib, json, resource, sys, time
from benchmarks.neuron import LLAMA_2_70B
import recipes
from compiler.targets.neuron.plan import neuron_plan
tp, batch, bucket = map(int, sys.argv[1:])
began = time.monotonic()
config = recipes.load("llama").resolve(LLAMA_2_70B).model_config(LLAMA_2_70B)
plan = neuron_plan(config, tp, 4096, (batch,), token_buckets=(bucket, 4096), context_buckets=(bucket,))
found = {"plan_seconds": time.monotonic() - began, "strategy": plan.heads.strategy}
began = time.monotonic()
from compiler.targets.neuron.graph.lower import lower
from compiler.targets.neuron.graph.signature import graph_specs
found["import_seconds"] = time.monotonic() - began
for spec in [one for one in graph_specs(plan) if one.bucket == bucket]:
    began = time.monotonic()
    data = lower(plan, spec)
    found[spec.kind] = {
        "seconds": time.monotonic() - began,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tp", type=int, default=24)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--bucket", type=int, default=2048)
    arguments = parser.parse_args()
    sizes = [str(arguments.tp), str(arguments.batch), str(arguments.bucket)]
    runs = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", STEP, *sizes], stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout))
        print(json.dumps(runs[-1], indent=2))
    same = all(runs[0][kind]["sha256"] == runs[1][kind]["sha256"] for kind in ("context", "token"))
    print(f"bytes in two processes: {'equal' if same else 'different'}")


if __name__ == "__main__":
    main()
