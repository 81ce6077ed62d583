"""Values of the source that are not finite, or are beyond the range of the wanted dtype, by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import NumericsError
from compiler.model.dtypes import DTYPES
from compiler.quantization.scale_tensors import PREFIX as SCALES
from compiler.storage.files.range import FLOATS, LostValues, count_lost, has_lost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.model.lazy import Lazy, RankPlan
    from compiler.storage.checkpoints.checkpoint import Checkpoint, SourceTensor

_CHUNK = 1 << 20
_SHOWN = 8
_NAMES = {short: name for name, short in DTYPES.items()}


def kept_dtype(tensor: Lazy) -> str:
    """The dtype in which the values of a tensor must be finite: that of its file, or its own where it is quantized."""
    return tensor.source_dtype if tensor.quantize or tensor.packing else tensor.dtype


def of_model(tensor: Lazy) -> bool:
    """Whether a tensor has floating-point values of the model, and not scales, which this program computes."""
    return tensor.source_dtype in FLOATS and not any(piece.source.startswith(SCALES) for piece in tensor.pieces[:1])


def check_source(plans: Sequence[RankPlan], checkpoint: Checkpoint) -> None:
    """Raise NumericsError if the source has values that are NaN, infinite or beyond the range of the rank files' dtype.

    Reads all weights of the plans: for a conversion or a proof that has failed.
    """
    wanted = {
        (piece.source, kept_dtype(tensor))
        for plan in plans
        for _, tensor in plan.tensors
        for piece in tensor.pieces
        if of_model(tensor)
    }
    found: list[tuple[str, str, LostValues]] = []
    for name, dtype in sorted(wanted):
        source = checkpoint.tensors.get(name)
        if source is not None and source.file is not None:
            lost = _count(source, dtype)
            if lost != LostValues():
                found.append((name, dtype, lost))
    if found:
        raise _error(found)


def _count(tensor: SourceTensor, dtype: str) -> LostValues:
    bits, total = tensor.bits(), LostValues()
    for begin in range(0, bits.size, _CHUNK):
        part = bits[begin : begin + _CHUNK]
        if has_lost(part, tensor.dtype, dtype):
            total += count_lost(part, tensor.dtype, dtype)
    return total


def _error(found: Sequence[tuple[str, str, LostValues]]) -> NumericsError:
    lines = [f"  `{name}`: {lost.text(_NAMES.get(dtype, dtype))}" for name, dtype, lost in found]
    more = [f"  ... and {len(lines) - _SHOWN} more tensors"] if len(lines) > _SHOWN else []
    broken = any(lost.nan or lost.infinite for _, _, lost in found)
    what = "is not finite" if broken else "has values beyond the range of the wanted dtype"
    hint = (
        "use another revision of the model: this one was damaged, or its training diverged; rows of tokens that are "
        "never used may be set to zero"
        if broken
        else "choose a dtype that holds them: `--dtype bfloat16` or `--dtype float32`"
    )
    return NumericsError(
        "\n".join([f"the source itself {what} in {len(found)} tensor(s):", *lines[:_SHOWN], *more]), hint=hint
    )
