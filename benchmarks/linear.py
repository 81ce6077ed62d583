"""Matrix products of few rows: the operators of compiled packages against torch's, and against memory bandwidth.

    python -m benchmarks.linear [--runs 7] [--rows 1,2,4,8,16,128] [--threads 1,2]

Weights [5632, 2048] times 1 to 128 rows of bfloat16, 24 different matrices in turn, which exceed all caches. The forms
alternate; prints medians in microseconds per product, the speed relative to `F.linear` in bfloat16, and the rate at
which the weight is read.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.tinyllama import FFN, HIDDEN, machine
from compiler.decoder.quantized import QuantizedWeight, definition
from compiler.quantization.formats import int4
from compiler.runtime.package import Package
from compiler.targets.inductor import ops

MATRICES = 24


class Product(torch.nn.Module):
    """Product by one operator: x, weight, scale -> x W^T."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return ops.linear(self.name, x, weight if self.name == "floats" else QuantizedWeight(weight, scale), None)


def weights(name: str) -> tuple[list[Tensor], Tensor]:
    """Matrices of an operator, and their scales."""
    match name:
        case "floats":
            return [torch.randn(FFN, HIDDEN).bfloat16() for _ in range(MATRICES)], torch.empty(0)
        case "int4":
            packed = [torch.randint(0, 256, (FFN, HIDDEN // 2), dtype=torch.uint8) for _ in range(MATRICES)]
            return packed, torch.full((FFN, HIDDEN // (int4.FORMAT.group or 1)), 1e-3)
        case "fp8":
            codes = torch.randint(0, 127, (FFN, HIDDEN), dtype=torch.uint8)
            return [codes.clone().view(torch.float8_e4m3fn) for _ in range(MATRICES)], torch.full((FFN,), 1e-3)
    integers = [torch.randint(-127, 128, (FFN, HIDDEN), dtype=torch.int8) for _ in range(MATRICES)]
    return integers, torch.full((FFN,), 1e-3)


def packages(folder: Path) -> dict[str, Path]:
    """Package of each operator."""
    from compiler.targets.inductor import library, worker
    from compiler.targets.inductor.build import write_wrapper
    from compiler.targets.inductor.device import MARCH

    compiler = write_wrapper(folder, MARCH)
    library.build_library(compiler, folder / "library", jobs=2, timeout=600)
    os.environ |= {"CXX": str(compiler), "LIBRARY_PATH": str(folder / "library")}
    found = {}
    for name in ops.OPERATORS:
        (weight, *_), scale = weights(name)
        rows = {0: torch.export.Dim("rows", min=1)}
        inputs = torch.randn(2, HIDDEN).bfloat16(), weight, scale
        program = torch.export.export(Product(name), inputs, dynamic_shapes=(rows, None, None))
        raw = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(folder / f"{name}.raw.pt2"),
            inductor_configs=worker.options("cpu", MARCH) | worker.products(),
        )
        found[name] = folder / f"{name}.pt2"
        worker.repack(Path(raw), found[name], root=name)
    return found


def microseconds(form: Callable[[Tensor, Tensor], Tensor], x: Tensor, matrices: list[Tensor]) -> float:
    begun = time.perf_counter()
    for weight in matrices:
        form(x, weight)
    return 1e6 * (time.perf_counter() - begun) / len(matrices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--rows", default="1,2,4,8,16,128")
    parser.add_argument("--threads", default="1,2")
    options = parser.parse_args()
    forms: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], list[Tensor]]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        made = {name: weights(name) for name in ops.OPERATORS}
        forms["F.linear"] = F.linear, made["floats"][0]
        forms["_int_mm"] = (
            lambda x, w: definition("per_token")(x, QuantizedWeight(w, made["int8"][1]), None),
            made["int8"][0],
        )
        for name, path in packages(Path(folder)).items():
            forms[name] = _runs(Package(path), made[name][1]), made[name][0]
        print(machine())
        print("| threads | rows | form | us | F.linear / it | GB/s |")
        print("|---|---|---|---|---|---|")
        for threads in map(int, options.threads.split(",")):
            torch.set_num_threads(threads)
            for rows in map(int, options.rows.split(",")):
                x = torch.randn(rows, HIDDEN).bfloat16()
                found: dict[str, list[float]] = {name: [] for name in forms}
                for _ in range(options.runs + 1):
                    for name, (form, matrices) in forms.items():
                        found[name].append(microseconds(form, x, matrices[: 4 if rows > 16 else MATRICES]))
                medians = {name: statistics.median(times[1:]) for name, times in found.items()}
                for name, median in medians.items():
                    speed = forms[name][1][0].nbytes / median / 1e3
                    ratio = medians["F.linear"] / median
                    print(f"| {threads} | {rows} | {name} | {median:.0f} | {ratio:.2f} | {speed:.1f} |", flush=True)


def _runs(package: Package, scale: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, weight: package.run([x, weight, scale])[0]


if __name__ == "__main__":
    main()
