"""Round weights with feedback of their errors, behind the cache. A run that was killed goes on where it was."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compiler.calibration import feedback
from compiler.pipeline.runner import Output, Step
from compiler.report import amount, progress_in

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.calibration.samples import Samples
    from compiler.pipeline.runner import CachedRunner
    from compiler.pipeline.steps.digest import Source
    from compiler.quantization.schemes import Scheme
    from compiler.storage.cache.stages import CacheEntry


@dataclass(frozen=True)
class FeedbackInputs:
    """Cache key. `samples`: digest of the token ids; `device`: its results differ in their last bits."""

    version: int
    source: str
    config: dict[str, Any]
    scheme: dict[str, Any]
    samples: str
    device: str


def compensate(
    runner: CachedRunner, source: Source, scheme: Scheme, samples: Samples, device: str, max_memory: int
) -> CacheEntry:
    """The entry with the files of `calibration/feedback.py`. `device`: of the forward pass.

    Raises the errors of `feedback.compensate`.
    """
    own = {name: value for name, value in asdict(scheme).items() if name not in ("tolerance", "parts")}
    inputs = FeedbackInputs(feedback.VERSION, source.digest, source.config.to_json(), own, samples.digest, device)
    partial = runner.cache.partial_folder("feedback", inputs)

    def run(folder: Path) -> Output:
        facts = feedback.compensate(
            source.config,
            source.tensors,
            source.checkpoint,
            samples,
            scheme,
            work=partial,
            out=folder,
            max_memory=max_memory,
            device=device,
            progress=progress_in(runner.report, "tokens x layers"),
        )
        partial.rmdir()
        return Output(facts)

    def note(entry: CacheEntry) -> str:
        facts = entry.facts
        share = facts["error"] / max(facts["error_of_nearest"], 1e-30)
        return f"{amount(facts['tokens'], 'tokens')}; error {share:.0%} of that of rounding to nearest"

    entry = runner.run(Step("feedback", inputs, run, note))
    widest = max(source.config.ffn, source.config.moe_ffn, source.config.hidden)
    if entry.facts["tokens"] < widest:
        runner.report.warn(
            f"{entry.facts['tokens']:,} calibration tokens are fewer than the {widest:,} inputs of a layer, whose "
            f"second moments they estimate: pass more text with `--calibration`"
        )
    return entry
