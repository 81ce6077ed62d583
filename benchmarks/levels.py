"""Products of one thread at every level of this CPU, against torch's library where it is held to the same.

    python -m benchmarks.levels [--levels avx2,...] [--tokens 1,8,128] [--rounds 15]

Weights [2048, 2048], 16 different matrices in turn, which exceed the second cache. Prints billions of operations per
second of the thread's own time: the best of the rounds, and their median in parentheses. The products of a
line alternate, so that a busy machine slows all of them. Few tokens are limited by memory.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cpu_peers import ONEDNN
from benchmarks.tinyllama import ROOT, machine
from compiler.runtime.levels import supported

SIZE, MATRICES = 2048, 16
FORMATS = ("floats", "int8", "int8_int8", "int4", "fp8", "int8_many", "int4_many", "floats_many")
"""Formats of native/products.h, in order."""


def built(folder: Path) -> Path:
    """Shared library with a C function for products at any level."""
    from compiler.targets.inductor import library
    from compiler.targets.inductor.build import write_wrapper
    from compiler.targets.inductor.device import MARCH
    from compiler.targets.inductor.toolchain import cxx

    archive = library.build_library(write_wrapper(folder, MARCH), folder / "library", jobs=2, timeout=600)
    driver, shared = ROOT / "tests" / "targets" / "inductor" / "driver.cpp", folder / "driver.so"
    argv = [cxx(), "-std=c++17", "-O1", "-fPIC", "-shared", "-fopenmp", f"-I{library.FOLDER}", driver, archive]
    subprocess.run([*map(str, argv), "-o", str(shared)], check=True)
    return shared


def measure(shared: Path, level: str, tokens: int, rounds: int) -> None:
    """Print the row of one level and number of tokens."""
    run = ctypes.CDLL(str(shared)).run_product
    x, y = torch.randn(tokens, SIZE).bfloat16(), torch.empty(tokens, SIZE).bfloat16()
    integers = torch.randint(0, 127, (MATRICES, SIZE, SIZE), dtype=torch.int8)
    floats = torch.randn(MATRICES, SIZE, SIZE).bfloat16()
    wide, of_x, units = floats[:4].float(), x.float(), torch.randint(-127, 128, (tokens, SIZE), dtype=torch.int8)
    scales = torch.full((SIZE * SIZE // 128,), 1e-3)

    def at(tensor: Tensor) -> ctypes.c_void_p:
        return ctypes.c_void_p(tensor.data_ptr())

    def ours(name: str) -> Callable[[int], object]:
        count, form = ctypes.c_int64, FORMATS.index(name)

        def product(matrix: int) -> None:
            weight = (floats if name.startswith("floats") else integers)[matrix]
            run(
                level.encode(), form, at(weight), at(scales), None, count(1), count(SIZE), count(SIZE), 1, at(x), None,
                count(tokens), None, count(1), at(y),
            )  # fmt: skip

        return product

    forms: Mapping[str, Callable[[int], object]] = {
        "library bfloat16": lambda i: F.linear(x, floats[i]),
        "library float32": lambda i: F.linear(of_x, wide[i % 4]),
        "library int8": lambda i: torch._int_mm(units, integers[i].t()),
        **{name: ours(name) for name in FORMATS},
    }
    found: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(rounds):
        for name, form in forms.items():
            begun = time.thread_time()
            form(turn % MATRICES)
            found[name].append(2e-9 * tokens * SIZE * SIZE / max(time.thread_time() - begun, 1e-9))
    cells = (f"{max(rates):.0f} ({statistics.median(rates):.0f})" for rates in found.values())
    print(f"| {level} | {tokens} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default=",".join(supported()[1:]))
    parser.add_argument("--tokens", default="1,8,128")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # the library and one level, in its own process
    options = parser.parse_args()
    tokens: list[int] = [int(count) for count in options.tokens.split(",")]
    if options.measure:
        torch.set_num_threads(1)
        for count in tokens:
            measure(Path(options.measure[0]), options.measure[1], count, options.rounds)
        return
    print(machine())
    print(f"| level | tokens | library bfloat16 | library float32 | library int8 | {' | '.join(FORMATS)} |")
    print(f"|{'---|' * (5 + len(FORMATS))}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shared = built(Path(folder))
        for level in options.levels.split(","):
            subprocess.run(
                [sys.executable, "-m", "benchmarks.levels", f"--tokens={options.tokens}", f"--rounds={options.rounds}",
                 "--measure", str(shared), level],
                check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": ONEDNN[level]},
            )  # fmt: skip


if __name__ == "__main__":
    main()
