"""Static library of `native/`, linked into every CPU package with products, so that a package is one file.

    native/README.md           who calls what, layouts, how a level is added
    native/shim.cpp            torch's tensor handles -> pointers and sizes
    native/products.cpp        rows of the weight over threads; scales, bias, rounding
    native/library.cpp         products of many rows by torch's library, at levels where it is faster
    native/tokens.cpp          activations quantized to integers or float8
    native/levels.cpp          level of instruction sets that this process uses
    native/kernels_*.cpp       products of rows, one file per level, by native/tiles.h and native/panels.h
    native/attend*.cpp         attention over a cache: handles, blocks over threads, one block per level

The linker takes the functions that a package calls. The library depends on no model: the cache of builds keeps it.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import CompileError
from compiler.targets.inductor.toolchain import archiver, on_x86

if TYPE_CHECKING:
    from compiler.storage.cache.stages import StageCache

NAME = "products"
"""Name of the library for the linker: `-lproducts`."""

PARTS = ("qkv", "attn", "mlp", "layer", "head")
"""Segments with products."""

FOLDER = Path(__file__).parent / "native"
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math")
# Scales and biases are applied in the order of the definition: a fused multiply-add would round differently.
_EXACT = ("-ffp-contract=off",)
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")))
_X86: dict[str, tuple[str, ...]] = {
    "kernels_avx2": _AVX2,
    "kernels_avx_vnni": (*_AVX2, "-mavxvnni"),
    "kernels_avx512": _AVX512,
    "kernels_avx512_vnni": (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
    "attend_avx512": _AVX512,
}
AARCH64: dict[str, tuple[str, ...]] = {
    "kernels_neon": (),
    "kernels_dotprod": ("-march=armv8.2-a+dotprod",),
    "kernels_i8mm": ("-march=armv8.2-a+dotprod+i8mm+bf16",),
}
"""Sources of aarch64 with their compiler flags."""
SOURCES: dict[str, tuple[str, ...]] = {
    "shim": (),
    "products": _EXACT,
    "library": _EXACT,
    "tokens": _EXACT,
    "levels": (),
    "kernels_portable": (),
    "attend_shim": (),
    "attend": _EXACT,
    "attend_portable": (),
    **(_X86 if on_x86() else {}),
    **(AARCH64 if platform.machine() == "aarch64" else {}),
}
"""Sources with their compiler flags, in addition to `FLAGS` and the packages' march."""


def digest() -> str:
    """Digest of the sources and their flags: with the compiler's version, the cache key of the library."""
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in (".cpp", ".h"))
    listing = "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files)
    return hashlib.sha256(f"{FLAGS} {SOURCES}\n{listing}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class LibraryInputs:
    """Cache key of the library. `versions`: of the toolchain, with `digest` of the sources."""

    versions: Mapping[str, str]
    march: str


def cached_library(
    cache: StageCache, inputs: LibraryInputs, compiler: Path, folder: Path, *, jobs: int, timeout: float
) -> Path:
    """Folder of the library in `cache`, compiled in `folder` where it is not there yet. Raises CompileError."""
    with cache.claims("library", {NAME: inputs}) as claims:
        claim = claims[NAME]
        if claim.entry is None:
            shutil.copy(build_library(compiler, folder, jobs=jobs, timeout=timeout), claim.folder)
        return (claim.entry or claim.commit()).folder


def build_library(compiler: Path, folder: Path, *, jobs: int, timeout: float) -> Path:
    """Compile `<folder>/libproducts.a` with `compiler`, which adds the march. Equal inputs give equal bytes.

    Raises:
        CompileError: a file did not compile, or not within `timeout` seconds.
    """
    folder.mkdir(parents=True)
    include = _torch() / "include"

    def compiled(name: str) -> Path:
        target = folder / f"{name}.o"
        source = FOLDER / f"{name}.cpp"
        argv = [compiler, *FLAGS, *SOURCES[name], f"-I{include}", "-c", source, "-o", target]
        _run(name, [str(part) for part in argv], folder, timeout)
        return target

    with ThreadPoolExecutor(jobs) as pool:
        objects = list(pool.map(compiled, SOURCES))
    library = folder / f"lib{NAME}.a"
    # D: without times and owners.
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
        hint="`lmi-compile doctor` checks the toolchain, which needs g++ 11 or newer",
    )


def _torch() -> Path:
    """Folder of torch, without importing it."""
    found = find_spec("torch")
    assert found is not None, "`versions` has checked that torch is installed"
    assert found.origin is not None
    return Path(found.origin).parent
