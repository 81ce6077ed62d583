"""Expected decode speed of artifacts on a CPU: a token cannot come faster than its weights are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.decoder.traffic import step_bytes
from compiler.report import amount
from compiler.runtime.levels import level
from compiler.targets.values import Finding

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.targets.inductor.options import InductorOptions


def decode_speed(
    config: ModelConfig,
    tp: int,
    dtype: str,
    options: InductorOptions,
    bandwidth: float,
    flags: frozenset[str] | None = None,
) -> Finding:
    """Level of the kernels and limit of tokens a second for one row. `bandwidth`: bytes a second, of all cores.

    `flags` replaces this CPU's features. Raises UsageError for a level that the CPU does not run.
    """
    read = step_bytes(config, tp, dtype, options.products, options.head)
    return Finding(
        "decode",
        "ok",
        f"at most {bandwidth / read:.3g} tokens/s a row: {amount(read, 'bytes')} of weights a token, read at "
        f"{amount(round(bandwidth), 'bytes')}/s; kernels of level {level(flags=flags)}",
    )
