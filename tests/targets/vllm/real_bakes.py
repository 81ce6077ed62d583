"""Bakes of the tests with a real vLLM on a CPU, with CUDA's compilation path (cuda_path).

Starts take place in namespaces of their own where these are allowed.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compiler.targets.vllm import bake
from compiler.targets.vllm.environment import BLOCK_SIZE
from compiler.targets.vllm.interpreter import PYTHON
from compiler.targets.vllm.isolation import isolation
from compiler.targets.vllm.server import ServerHost
from compiler.targets.vllm.serving import MODEL_PATH, Serving
from tests.targets.vllm.bakes import TriedBake, bake_in
from tests.tiny import write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from compiler.targets.values import Finding
    from compiler.targets.vllm.environment import Dialect

MARKS = [
    pytest.mark.vllm,
    pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} names no interpreter with vLLM"),
]
"""Marks of tests that start vLLM, see `scripts/test-vllm`."""
CUDA_PATH = str(Path(__file__).parent / "cuda_path")
SERVING = Serving(1, "bfloat16", 256, 4, 256, BLOCK_SIZE["cpu"], load_format="auto")


@contextmanager
def real_bake(folder: Path, dialect: Dialect) -> Iterator[TriedBake]:
    """Bake of a model with heads of 32, which vLLM's CPU kernels need."""
    model, out = write_checkpoint("llama", folder / "model", head_dim=32), folder / "out"
    out.mkdir()
    with isolation(model, MODEL_PATH) as isolated:
        host = ServerHost(os.environ[PYTHON], isolated, (CUDA_PATH,), 600)
        yield bake_in(bake.BakeSpec(SERVING, dialect, "", "", 250, {}), host, model, folder / "work", out)


def deciding(findings: Sequence[Finding]) -> list[str]:
    """Subjects of the mismatches, but for the miss itself."""
    return [each.subject for each in findings if each.state == "mismatch" and each.subject != "cache"]
