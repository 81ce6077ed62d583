"""The two forms of a mixture of experts, `gather` and `loop`, at the token counts of decode steps.

    python -m benchmarks.moe [--runs 5]

Top 2 of 8 experts, hidden 1024, ffn 2048, bfloat16 (100 MB of weights), compiled by torch.compile with a free number of
tokens, as the packages are. Tokens choose at random. The forms alternate; prints the medians, milliseconds a call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.tinyllama import machine
from compiler.decoder.moe import Experts, gather, loop, route

HIDDEN, FFN, EXPERTS, CHOSEN = 1024, 2048, 8, 2
LAYERS = 4
"""Layers in turn, so that no weight comes from a cache of the CPU."""


def compiled(form: Experts) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def run(x: Tensor, logits: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        chosen, share = route(logits, CHOSEN, renormalize=True)
        return form(x, chosen, share, gate_up, down, "silu")

    made: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = torch.compile(run, dynamic=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", default="2,4,8,16,32")
    options = parser.parse_args()
    # What `loop` asks of the data is then part of the graph, as it is in torch.export.
    torch._dynamo.config.capture_dynamic_output_shape_ops = True
    forms = {"gather": compiled(gather), "loop": compiled(loop)}
    weights = [
        (torch.randn(EXPERTS, 2 * FFN, HIDDEN).bfloat16() * 0.03, torch.randn(EXPERTS, HIDDEN, FFN).bfloat16() * 0.02)
        for _ in range(LAYERS)
    ]
    print(machine())
    print("| tokens | gather, ms | loop, ms | loop / gather |")
    print("|---|---|---|---|")
    with torch.no_grad():
        for tokens in map(int, options.tokens.split(",")):
            found: dict[str, list[float]] = {name: [] for name in forms}
            x = torch.randn(tokens, HIDDEN).bfloat16()
            for run in range(options.runs + 1):
                logits = torch.randn(tokens, EXPERTS)
                for name, form in forms.items():
                    begun = time.perf_counter()
                    for gate_up, down in weights:
                        form(x, logits, gate_up, down)
                    if run:  # the first one compiles
                        found[name].append((time.perf_counter() - begun) / LAYERS)
            ours, theirs = (1e3 * statistics.median(times) for times in found.values())
            print(f"| {tokens} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
