"""The native kernels of aarch64 under emulation: the tests of products, against a process of another architecture.

    python -m tests.targets.inductor.emulated [PYTEST OPTION...]

Needs a cross compiler and an emulator (Debian: `apt-get install g++-aarch64-linux-gnu qemu-user-static`). Compiles the
sources of products with `emulated.cpp` to a static program, and runs test_products.py with it in the place of this
CPU's library; the emulated CPU has all features of its architecture. Ends with pytest's exit code.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from compiler.targets.inductor import library

if TYPE_CHECKING:
    from torch import Tensor

MACHINE = "aarch64"
VARIABLE = "LMI_COMPILE_TESTS_EMULATE"
"""Environment variable that makes test_products.py use an emulator."""
FEATURES = frozenset({"asimd", "asimddp", "i8mm", "bf16"})
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", ("qemu-aarch64-static", "-cpu", "max")
SOURCES = ("products", "tokens", "levels", "kernels_portable", *library.AARCH64)


def build(folder: Path) -> Path:
    """The program, compiled in `folder`."""
    objects = []
    for name in SOURCES:
        flags = {**library.SOURCES, **library.AARCH64}[name]
        objects.append(str(folder / f"{name}.o"))
        source = str(library.FOLDER / f"{name}.cpp")
        subprocess.run([COMPILER, *library.FLAGS, *flags, "-c", source, "-o", objects[-1]], check=True)
    program = folder / "emulated"
    main = str(Path(__file__).with_name("emulated.cpp"))
    argv = [COMPILER, *library.FLAGS, f"-I{library.FOLDER}", main, *objects, "-static", "-o", str(program)]
    subprocess.run(argv, check=True)
    return program


@dataclass
class Emulator:
    """The program in its emulator."""

    process: subprocess.Popen[bytes]

    def run(
        self, level: str, form: int, dtype: int, x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None,
        chosen: Tensor | None, input_scale: Tensor | None, y: Tensor,
    ) -> None:  # fmt: skip
        """Fill `y` with a product at `level`."""
        experts, choices = (weight.shape[0], chosen.shape[1]) if chosen is not None else (1, 1)
        operands = [weight, scale, input_scale, x, bias, chosen]
        data = [b"" if operand is None else _bytes(operand) for operand in operands]
        sizes = (form, experts, weight.shape[-2], x.shape[1], dtype, x.shape[0], choices)
        head = struct.pack("16s14q", level.encode(), *sizes, *map(len, data), y.numel() * y.element_size())
        pipe, answer = self.process.stdin, self.process.stdout
        assert pipe is not None
        assert answer is not None
        pipe.write(head + b"".join(data))
        pipe.flush()
        found = answer.read(y.numel() * y.element_size())
        assert len(found) == y.numel() * y.element_size(), f"the program ended with {self.process.wait()}"
        y.copy_(torch.frombuffer(bytearray(found), dtype=y.dtype).view(y.shape))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def start(folder: Path) -> Emulator:
    """The program, compiled in `folder`, in its emulator."""
    argv = [*EMULATOR, str(build(folder))]
    return Emulator(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))


def _bytes(tensor: Tensor) -> bytes:
    return np.asarray(tensor.contiguous().view(torch.uint8)).tobytes()


if __name__ == "__main__":
    tests = str(Path(__file__).with_name("test_products.py"))
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "0", tests, *sys.argv[1:]]
    sys.exit(subprocess.run(argv, env={**os.environ, VARIABLE: MACHINE}).returncode)
