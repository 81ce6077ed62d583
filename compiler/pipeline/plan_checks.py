"""Checks and notes of plans before any weight is read: casts, mixtures that the build will choose."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from compiler.errors import CheckpointError, RefusedError
from compiler.storage.files.cast import CASTABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.model.lazy import RankPlan
    from compiler.quantization.request import Quant
    from compiler.storage.checkpoints.checkpoint import Checkpoint


def mixture_notes(quant: Quant) -> tuple[str, ...]:
    """Note on a mixture of schemes that is not chosen yet."""
    if quant.scheme is None or not quant.mixes or quant.scheme.parts:
        return ()
    own, asked = quant.scheme.tolerance.perplexity, quant.max_perplexity_increase
    limit = own if asked is None else asked
    text = (
        f"`--quant {quant.scheme.name}`: the build measures the cost of every part of a layer in every scheme, and "
        f"takes the fewest bytes that keep the increase of the perplexity within {limit:.2%}; sizes here are those of "
        "the unquantized model, the most that it may choose"
    )
    return (text,)


def check_casts(plans: Sequence[RankPlan]) -> None:
    """Refuse plans that cast where there is no cast. Raises RefusedError."""
    for plan in plans:
        for name, tensor in plan.tensors:
            changes = tensor.fold or tensor.dtype != tensor.source_dtype
            dtypes = {tensor.source_dtype} if tensor.quantize else {tensor.dtype, tensor.source_dtype}
            if changes and not dtypes <= set(CASTABLE):
                sources = sorted({piece.source for piece in tensor.pieces})
                raise RefusedError(
                    f"`{name}`: no cast from {tensor.source_dtype} (`{sources[0]}`) to {tensor.dtype}",
                    hint=f"casts are between {', '.join(CASTABLE)}: use a revision of the model in one of them",
                )


def check_sources(plans: Sequence[RankPlan], checkpoint: Checkpoint) -> None:
    """Refuse plans that were not made from this checkpoint, or that cast where there is no cast.

    Raises CheckpointError, RefusedError.
    """
    check_casts(plans)
    for plan in plans:
        for name, tensor in plan.tensors:
            for piece in tensor.pieces:
                source = checkpoint.tensors.get(piece.source)
                last = piece.start + sum((n - 1) * step for n, step in zip(piece.shape, piece.strides, strict=True))
                if source is None or not _reads_as(source.dtype, tensor.source_dtype) or last >= prod(source.shape):
                    raise CheckpointError(
                        f"`{name}` is planned from `{piece.source}` ({tensor.source_dtype}, {last + 1} "
                        f"elements or more), the checkpoint has {source}",
                        hint="make the plan from the checkpoint that is converted",
                    )
                if source.file is None:
                    raise CheckpointError(
                        f"only the header of `{piece.source}` is here, not its data",
                        hint="fetch the checkpoint with its weights",
                    )


def _reads_as(dtype: str, wanted: str) -> bool:
    """Whether a source of `dtype` is read as `wanted`: it is, or is widened (lazy.concat)."""
    return dtype == wanted or (wanted in ("F32", "F64") and {dtype, wanted} <= set(CASTABLE))
