from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import recipes
from compiler.pipeline.request import Ask, BuildRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compiler.quantization.request import Quant


@pytest.fixture
def request_for(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> Callable[..., BuildRequest]:
    def make(case: str = "llama", tp: int = 2, **changes: Any) -> BuildRequest:
        fields: dict[str, Any] = {
            "model": str(tiny_checkpoint(case)),
            "recipes": recipes,
            "ask": Ask(tp=tp, max_batch=2),
            "output": tmp_path / "artifact",
            "cache": tmp_path / "cache",
        }
        return BuildRequest(**{**fields, **changes})

    return make


@pytest.fixture
def quantized(request_for: Callable[..., BuildRequest]) -> Callable[..., BuildRequest]:
    def make(quant: Quant, case: str = "llama", tp: int = 2, **changes: Any) -> BuildRequest:
        return request_for(case, tp, **{"ask": Ask(tp=tp, max_batch=2, quant=quant), **changes})

    return make
