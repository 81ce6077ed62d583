"""From a checkpoint to an answer in Python: `python examples/api.py MODEL OUTPUT`."""

import sys

from compiler import api

model, output = sys.argv[1:]
plan = api.plan(model, tp=2)
print(f"{plan.ranks[0].nbytes:,} bytes a rank, {plan.kv_bytes_per_token:,} bytes of KV cache a token")
made = api.build(model, output, tp=2)
print(f"KL divergence from the checkpoint: {api.verify(output).numerics.kl:.2g}")
print(api.generate(output, "Return the", max_new_tokens=8))
