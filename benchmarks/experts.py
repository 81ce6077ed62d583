"""Experts of few tokens: the operator that reads only the chosen experts, against the loop over all experts.

    python -m benchmarks.experts [--runs 9] [--tokens 1,2,4,8,16] [--threads 1,2]

One mixture of 8 experts, 2 for each token, hidden 1024, 2048 wide, bfloat16 and int8 (W8A8), random routers; each form
is a compiled segment (`decode` has the operator, `prefill` the loop). Four copies of the weights in turn, 400 MB in
bfloat16, exceed all caches. The forms alternate; medians in milliseconds per layer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.tinyllama import machine
from compiler.decoder.rankfile.quantized import scale_of, stored_weight
from compiler.decoder.segments import SegmentSpec, input_names, specs, weight_shapes
from compiler.model.config import LayerKind, ModelConfig
from compiler.model.limits import Limits
from compiler.runtime.package import Package
from compiler.targets.inductor.build import compile_segments
from compiler.targets.inductor.device import MARCH

CONFIG = ModelConfig(
    architecture="", layers=1, hidden=1024, heads=16, kv_heads=16, head_dim=64, ffn=0, vocab=1024, max_positions=64,
    rotary_dim=64, norm_eps=1e-5, experts=8, experts_per_token=2, moe_ffn=2048, layer_kinds=(LayerKind("moe"),),
    dtype="bfloat16",
)  # fmt: skip
COPIES = 4
FORMS: tuple[str, ...] = ("float", "per_token", "fp8_per_token")


def inputs(spec: SegmentSpec) -> list[Tensor]:
    """Inputs of one layer; x is first, and is filled in later."""
    shapes, made = weight_shapes(spec), []
    for name in input_names(spec)[1:]:
        if name.endswith(".scale"):
            made.append(torch.full(shapes[name], 1e-3))
        elif scale_of(name) in shapes:
            dtype = getattr(torch, stored_weight(spec.products).torch_dtype)
            made.append(torch.randint(0, 127, shapes[name], dtype=torch.uint8).view(dtype))
        else:
            made.append(torch.randn(shapes[name]).bfloat16() / 32)
    return made


def milliseconds(package: Package, x: Tensor, layers: Sequence[list[Tensor]]) -> float:
    begun = time.perf_counter()
    for weights in layers:
        package.run([x, *weights])
    return 1e3 * (time.perf_counter() - begun) / len(layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--tokens", default="1,2,4,8,16")
    parser.add_argument("--threads", default="1,2")
    options = parser.parse_args()
    forms: dict[tuple[str, str], tuple[Package, list[list[Tensor]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for products in FORMS:
            found = {spec.name: spec for spec in specs(CONFIG, 1, "bfloat16", Limits(64, 16), products)}
            wanted = [found["mlp-moe.decode"], found["mlp-moe.prefill"]]
            layers = [inputs(wanted[0]) for _ in range(COPIES)]
            for path in compile_segments(wanted, Path(folder) / products, device="cpu", march=MARCH):
                forms[products, "operator" if "decode" in path.name else "loop"] = Package(path), layers
    print(machine())
    print("| threads | tokens | weights | operator, ms | loop, ms | loop / operator |")
    print("|---|---|---|---|---|---|")
    for threads in map(int, options.threads.split(",")):
        torch.set_num_threads(threads)
        for tokens in map(int, options.tokens.split(",")):
            x = torch.randn(tokens, 1, CONFIG.hidden).bfloat16()
            times: dict[tuple[str, str], list[float]] = {form: [] for form in forms}
            for _ in range(options.runs + 1):
                for form, (package, layers) in forms.items():
                    times[form].append(milliseconds(package, x, layers))
            for products in FORMS:
                ours, loop = (statistics.median(times[products, form][1:]) for form in ("operator", "loop"))
                ratio = f"{loop / ours:.2f}"
                print(f"| {threads} | {tokens} | {products} | {ours:.2f} | {loop:.2f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
