"""Fetch the weights of a model, and unpack those that come quantized: gigabytes, once for each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.pipeline.resolve import located_source, opened, unpacking, with_recipe
from compiler.quantization.prequantized.checkpoint import after_rewrite, rewrite
from compiler.targets import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from compiler.pipeline.request import PlanRequest
    from compiler.pipeline.resolve import LocatedModel


def fetch(request: PlanRequest, progress: Callable[[int, int, str], None] | None = None) -> LocatedModel:
    """The model of a request with its weights. `progress(done, total, unit)`: of unpacking. Raises LmiCompileError."""
    source = located_source(request, "all")
    checkpoint = opened(request, source)
    how = unpacking(request, checkpoint)
    if how is not None and load(request.target).layout is None:
        checkpoint = after_rewrite(checkpoint, how)  # the target packs the files as they are
    elif how is not None:
        unpacked = request.cache / "unpacked"
        checkpoint = rewrite(checkpoint, how, unpacked, request.resources.max_memory, progress)
    return with_recipe(request, source, checkpoint)
