"""Calibrate: magnitudes of activations over a text, behind the cache. A run that was killed goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.calibration import activations
from compiler.calibration.samples import read_samples
from compiler.pipeline.runner import Output, Step
from compiler.report import amount, progress_in

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.calibration.samples import Samples
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.runner import CachedRunner
    from compiler.pipeline.steps.digest import Source
    from compiler.storage.cache.stages import CacheEntry


@dataclass(frozen=True)
class CalibrateInputs:
    """Cache key. `samples`: digest of the token ids; `device`: its results differ in their last bits."""

    version: int
    source: str
    config: dict[str, Any]
    samples: str
    device: str


def calibration_samples(plan: Plan, tokenizer: Path | None) -> Samples | None:
    """The text that the plan calibrates on; None where it needs none. `tokenizer`: its folder.

    Raises CalibrationError, TokenizerError.
    """
    text = plan.quant.text
    if not plan.quant.calibrated:
        return None
    length = min(text.length, plan.config.max_positions)
    return read_samples(
        text.file, tokenizer, vocab=plan.config.vocab, count=text.samples, length=length, name=text.name
    )


def calibrate(runner: CachedRunner, source: Source, samples: Samples, device: str, max_memory: int) -> CacheEntry:
    """The entry with `activations.RESULT`. `device`: of the forward pass.

    Raises the errors of `activations.calibrate`.
    """
    inputs = CalibrateInputs(activations.VERSION, source.digest, source.config.to_json(), samples.digest, device)
    partial = runner.cache.partial_folder("calibrate", inputs)

    def run(folder: Path) -> Output:
        facts = activations.calibrate(
            source.config,
            source.tensors,
            source.checkpoint,
            samples,
            work=partial,
            out=folder,
            max_memory=max_memory,
            device=device,
            progress=progress_in(runner.report, "tokens x layers"),
        )
        partial.rmdir()
        return Output(facts)

    def note(entry: CacheEntry) -> str:
        return f"{amount(entry.facts['tokens'], 'tokens')} of {samples.name}"

    entry = runner.run(Step("calibrate", inputs, run, note))
    dead = sum(entry.facts["dead_channels"].values())
    if dead:
        runner.report.warn(f"{dead} channels are zero over the whole calibration text; they are not smoothed")
    return entry
