"""Expected decode speed of artifacts on a CPU: a token cannot come faster than its weights are read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from compiler.decoder.traffic import step_bytes
from compiler.report import amount
from compiler.runtime.levels import VARIABLE, level, supported
from compiler.targets.values import Finding

if TYPE_CHECKING:
    from compiler.artifact.manifest import Manifest
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


def expected(manifest: Manifest) -> list[tuple[str, str]]:
    """Bytes of a decode step and level of its kernels, for an artifact that runs on a CPU; none for others."""
    from compiler.runtime.section import runnable
    from compiler.targets.inductor.options import InductorOptions

    if manifest.device.kind != "cpu":
        return []
    options = InductorOptions.of(runnable(manifest))
    read = step_bytes(manifest.config, manifest.parallel.tp, manifest.dtype, options.products, options.head)
    # A level that this CPU lacks is an error where something runs; here it is a fact.
    runs, asked = supported(), os.environ.get(VARIABLE)
    missing = asked and asked not in runs
    level_text = f"{asked}, which this CPU does not run" if missing else f"{asked or runs[-1]} on this CPU"
    return [("decode step", f"{amount(read, 'bytes')} of weights a row; kernels of level {level_text}")]
