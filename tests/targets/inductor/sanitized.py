"""The native kernels under the sanitizers of addresses and of undefined behavior, at every level of this CPU.

    python -m tests.targets.inductor.sanitized [FOLDER]

Compiles the sources that need no torch, with `sanitized.cpp`, to a program in FOLDER (a temporary one by default), and
runs it: products of all formats and attention over caches of all dtypes, of odd sizes, whose operands end where their
allocation ends. Ends with the program's exit code.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compiler.runtime.levels import supported
from compiler.targets.inductor import library
from compiler.targets.inductor.toolchain import cxx

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1", "-O1")
NEEDS_TORCH = {"shim", "library", "attend_shim"}


def build(folder: Path) -> Path:
    """Program with all sanitized kernels, compiled in `folder`."""
    sources = {
        library.FOLDER / f"{name}.cpp": flags for name, flags in library.SOURCES.items() if name not in NEEDS_TORCH
    }
    sources[Path(__file__).with_name("sanitized.cpp")] = ()

    def compiled(source: Path, flags: tuple[str, ...]) -> str:
        target = str(folder / f"{source.stem}.o")
        argv = [cxx(), *library.FLAGS, *flags, *SANITIZERS, f"-I{library.FOLDER}", "-c", str(source), "-o", target]
        subprocess.run(argv, check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources, sources.values()))
    program = folder / "sanitized"
    subprocess.run([cxx(), "-fopenmp", *SANITIZERS, *objects, "-o", str(program)], check=True)
    return program


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        program = build(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
        return subprocess.run([str(program), *supported()]).returncode


if __name__ == "__main__":
    sys.exit(main())
