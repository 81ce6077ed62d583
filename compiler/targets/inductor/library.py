"""The library of `native/`, which is linked into every package for a CPU that has products: nothing is beside it.

    native/shim.cpp            torch's tensor handles -> pointers and sizes
    native/products.cpp        rows of the weight over threads; scales, bias, rounding
    native/many.cpp            8-bit products of many rows, where torch's library has a faster kernel
    native/tokens.cpp          activations as integers
    native/dots_*.cpp          dot products, one file an instruction set; which of them runs is decided when it runs
    native/widen_avx512.h      weights of 8 and 4 bits made bfloat16, a part of dots_avx512.cpp
    native/attend*.cpp         attention over a cache, in the same way: its handles, blocks over threads, a block

A package takes of it what it calls. The library is made anew for each call of the compiler: eleven files, some
seconds.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from compiler.errors import CompileError
from compiler.targets.inductor.toolchain import archiver, on_x86

NAME = "products"
"""The linker's name: `-lproducts`."""

PARTS = ("qkv", "attn", "mlp", "head")
"""The segments that have products."""

FOLDER = Path(__file__).parent / "native"
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math")
# Scales and biases are applied in the order of the definition: a fused multiply-add would round otherwise.
_EXACT = ("-ffp-contract=off",)
_AVX512 = tuple(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni", "bf16"))
_SOURCES = {
    "shim": (),
    "products": _EXACT,
    "many": _EXACT,
    "tokens": _EXACT,
    "dots": (),
    "dots_portable": (),
    "dots_avx512": _AVX512 if on_x86() else (),
    "attend_shim": (),
    "attend": _EXACT,
    "attend_portable": (),
    "attend_avx512": _AVX512 if on_x86() else (),
}
"""Beyond `FLAGS` and the march of the packages."""


def digest() -> str:
    """Of the sources: with the compiler's version it decides the library's bytes."""
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in (".cpp", ".h"))
    listing = "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def build_library(compiler: Path, folder: Path, *, jobs: int, timeout: float) -> Path:
    """`<folder>/libproducts.a`, compiled by `compiler`, which adds the march. Equal inputs give equal bytes.

    Raises:
        CompileError: a file did not compile, or not within `timeout` seconds.
    """
    folder.mkdir(parents=True)
    include = _torch() / "include"

    def compiled(name: str) -> Path:
        target = folder / f"{name}.o"
        source = FOLDER / f"{name}.cpp"
        argv = [compiler, *FLAGS, *_SOURCES[name], f"-I{include}", "-c", source, "-o", target]
        _run(name, [str(part) for part in argv], folder, timeout)
        return target

    with ThreadPoolExecutor(jobs) as pool:
        objects = list(pool.map(compiled, _SOURCES))
    library = folder / f"lib{NAME}.a"
    # D: no times, no owners.
    _run(library.name, [archiver(), "rcsD", str(library), *map(str, objects)], folder, timeout)
    return library


def _run(name: str, argv: Sequence[str], folder: Path, timeout: float) -> None:
    try:
        run = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise _failed(name, f"not within {timeout:g} s") from None
    except OSError as error:
        raise _failed(name, str(error)) from error
    if run.returncode:
        raise _failed(name, run.stderr[-4000:])


def _failed(name: str, why: str) -> CompileError:
    return CompileError(
        f"`{name}` of the library of products did not compile: {why}",
        hint="`lmi-compile doctor` checks the toolchain; g++ 11 or newer is needed",
    )


def _torch() -> Path:
    """Torch's folder, without importing it."""
    found = find_spec("torch")
    assert found is not None, "`versions` is asked before"
    assert found.origin is not None
    return Path(found.origin).parent
