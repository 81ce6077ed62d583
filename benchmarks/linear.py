"""One product of a decode step: `F.linear` on the weight as it lies in the file against a copy that oneDNN has packed.

    python -m benchmarks.linear [--runs 7]

[5632, 2048] bfloat16 times 1 to 16 rows, 40 different matrices in turn (no weight comes from a cache), all cores. The
forms alternate; prints the medians, microseconds a product. Packing costs a copy of every weight, at every start.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.tinyllama import FFN, HIDDEN, machine

MATRICES = 40


def packed_linear(x: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product


def microseconds(form: Callable[[Tensor, Tensor], Tensor], x: Tensor, weights: list[Tensor]) -> float:
    begun = time.perf_counter()
    for weight in weights:
        form(x, weight)
    return 1e6 * (time.perf_counter() - begun) / len(weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    print(machine())
    print("| rows | F.linear | packed | F.linear / packed | GB/s of the faster |")
    print("|---|---|---|---|---|")
    with torch.no_grad():
        plain = [torch.randn(FFN, HIDDEN).bfloat16() for _ in range(MATRICES)]
        for rows in (1, 2, 4, 8, 16):
            x = torch.randn(rows, HIDDEN).bfloat16()
            packed = [torch.ops.mkldnn._reorder_linear_weight(weight, rows) for weight in plain]
            forms = {"plain": (F.linear, plain), "packed": (packed_linear, packed)}
            found: dict[str, list[float]] = {name: [] for name in forms}
            for _ in range(options.runs + 1):
                for name, (form, weights) in forms.items():
                    found[name].append(microseconds(form, x, weights))
            ours, theirs = (statistics.median(times[1:]) for times in found.values())
            speed = 2 * FFN * HIDDEN / min(ours, theirs) / 1e3
            print(f"| {rows} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} | {speed:.1f} |", flush=True)


if __name__ == "__main__":
    main()
