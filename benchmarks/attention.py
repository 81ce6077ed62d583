"""Attention of a decode step: the operator of compiled packages, over each kind of cache, against torch's attention.

    python -m benchmarks.attention [--runs 7] [--rows 1,4,8] [--threads 1,2]

`torch` is `scaled_dot_product_attention` over a bfloat16 cache with a mask, as in the packages for prefill and in
earlier packages for decoding. All rows attend to 512 positions; with a window to the last 256 of 2048. Every form is a
package that uses 8 caches in turn, as layers do; the forms alternate. Prints medians in microseconds per layer, and the
speed relative to `torch`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.tinyllama import machine
from compiler.decoder import attention
from compiler.decoder.attention import Cache, Scores, cache_dtype, quantize
from compiler.runtime.package import Package
from compiler.targets.inductor.attention import attend

LAYERS = 8
FORMS = {"torch": "", "bfloat16": "", "int8": "int8", "fp8": "fp8"}
"""Form of attention -> dtype of its cache."""


@dataclass(frozen=True)
class Shape:
    name: str
    heads: int
    kv_heads: int
    dim: int
    used: int = 512
    window: int | None = None


SHAPES = (
    Shape("TinyLlama", 32, 4, 64),
    Shape("Llama-3-8B", 32, 8, 128),
    Shape("Llama-2-7B", 32, 32, 128),
    Shape("Mistral, window", 32, 8, 128, 2048, 256),
)


class Attention(torch.nn.Module):
    """Attention by the operator or by torch: q, k, v, positions, keys, and the scales of a quantized cache."""

    def __init__(self, form: str, window: int | None) -> None:
        super().__init__()
        self.attend, self.window = attention.attend if form == "torch" else attend, window

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Tensor, scales: Tensor | None
    ) -> Tensor:
        y: Tensor = self.attend(q, Cache(k, v, scales, scales), positions, keys, Scores(self.window))
        return y


def inputs(shape: Shape, form: str, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Tensors of one layer."""
    of_cache = (rows, shape.used + 1, shape.kv_heads, shape.dim)
    q = torch.randn(rows, 1, shape.heads, shape.dim).bfloat16()
    k, v = (torch.randn(of_cache).bfloat16() for _ in range(2))
    positions, keys = torch.full((rows, 1), shape.used - 1), torch.arange(shape.used)
    if not FORMS[form]:
        return q, k, v, positions, keys, None
    scales = torch.full((shape.kv_heads,), 4 / 127)
    k, v = (quantize(part, scales, cache_dtype(FORMS[form])) for part in (k, v))
    return q, k, v, positions, keys, scales


def package(shape: Shape, form: str, folder: Path) -> Package:
    """Package of one form, for any number of rows and positions."""
    from compiler.targets.inductor import worker
    from compiler.targets.inductor.device import MARCH

    rows, room, used = (torch.export.Dim(name, min=1) for name in ("rows", "room", "used"))
    cache = {0: rows, 1: room}
    program = torch.export.export(
        Attention(form, shape.window),
        inputs(shape, form, 3),
        dynamic_shapes=({0: rows}, cache, cache, {0: rows}, {0: used}, {} if FORMS[form] else None),
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    name = f"{shape.heads}-{shape.kv_heads}-{shape.dim}-{shape.window}-{form}"
    path = torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(folder / f"{name}.pt2"),
        inductor_configs=worker.options("cpu", MARCH) | worker.products(),
    )
    return Package(Path(path))


def microseconds(run: Callable[[list[Tensor]], object], layers: list[list[Tensor]]) -> float:
    begun = time.perf_counter()
    for layer in layers:
        run(layer)
    return 1e6 * (time.perf_counter() - begun) / len(layers)


def main() -> None:
    from compiler.targets.inductor import library
    from compiler.targets.inductor.build import write_wrapper
    from compiler.targets.inductor.device import MARCH

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--rows", default="1,4,8")
    parser.add_argument("--threads", default="1,2")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        compiler = write_wrapper(folder, MARCH)
        library.build_library(compiler, folder / "library", jobs=2, timeout=600)
        os.environ |= {"CXX": str(compiler), "LIBRARY_PATH": str(folder / "library")}
        packages = {(shape, form): package(shape, form, folder) for shape in SHAPES for form in FORMS}
        print(machine())
        print("| threads | shape | rows | " + " | ".join(f"{form}, us" for form in FORMS), end=" | ")
        print(" | ".join(f"torch / {form}" for form in FORMS if form != "torch") + " |")
        print("|---" * (2 + 2 * len(FORMS)) + "|", flush=True)
        for threads in map(int, options.threads.split(",")):
            torch.set_num_threads(threads)
            for shape in SHAPES:
                for rows in map(int, options.rows.split(",")):
                    layers = {
                        form: [[t for t in inputs(shape, form, rows) if t is not None] for _ in range(LAYERS)]
                        for form in FORMS
                    }
                    found: dict[str, list[float]] = {form: [] for form in FORMS}
                    for _ in range(options.runs + 1):
                        for form, of_layers in layers.items():
                            found[form].append(microseconds(packages[shape, form].run, of_layers))
                    medians = {form: statistics.median(times[1:]) for form, times in found.items()}
                    ratios = [f"{medians['torch'] / medians[form]:.1f}" for form in FORMS if form != "torch"]
                    cells = [str(threads), shape.name, str(rows), *(f"{m:.0f}" for m in medians.values()), *ratios]
                    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
