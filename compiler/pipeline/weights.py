"""Weights of an artifact: rank files, made and judged as far as `until` asks for it; the logits they must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.numerics.gate.sides import side_of
from compiler.pipeline.job import Quality
from compiler.pipeline.steps.convert import convert
from compiler.pipeline.steps.gate import measure_loss, pass_gate
from compiler.pipeline.steps.judge import judge, rank_logits
from compiler.pipeline.steps.reference import quantized_reference, source_reference
from compiler.pipeline.steps.scales import with_scales

if TYPE_CHECKING:
    from compiler.calibration.samples import Samples
    from compiler.model.config import ModelConfig
    from compiler.numerics.gate.sides import Side
    from compiler.pipeline.job import Job, Prepared
    from compiler.pipeline.steps.digest import Source
    from compiler.pipeline.steps.reference import Reference
    from compiler.storage.cache.stages import CacheEntry
    from compiler.targets.protocols import RankLayout
    from compiler.targets.values import Made


def rank_files(
    job: Job,
    layout: RankLayout[Any],
    prepared: Prepared,
    source: Source,
    samples: Samples | None,
    held_out: Samples | None,
) -> tuple[CacheEntry, Quality]:
    """The rank files, judged as far as `until` asks for it. `samples`, `held_out`: to calibrate and to judge
    quantization on. Raises NumericsError where it costs more than it may.
    """
    runner, plan, max_memory = job.runner, prepared.plan, job.request.resources.max_memory
    scaled = with_scales(runner, source, plan, samples, max_memory)
    files = convert(runner, plan, source.digest, scaled, max_memory)
    if job.request.until == "convert" or plan.copied:
        return files, Quality()
    paths = [files.folder / rank.file for rank in plan.ranks]

    def side(lowered: ModelConfig | None) -> Side:
        return side_of(layout, plan.config, plan.options, files.folder, paths, max_memory, lowered, plan.quant.device)

    passed = None
    if held_out is not None:
        verdict = measure_loss(runner, plan, source, scaled, side, held_out, max_memory)
        passed = pass_gate(runner.report, plan, verdict, scaled, samples, job.request.output, prepared.mixture)
    if layout.judge is None and passed is None:
        return files, Quality()  # verify compares what is compiled from them with the source
    reference = source_reference(runner, plan, source, prepared.texts, max_memory)
    bounds = passed.quantisation.gate.bounds if passed else None
    logits = rank_logits(layout, plan, files.folder, max_memory, side)
    numerics = judge(runner, plan, source.digest, files, logits, reference, bounds)
    return files, Quality(passed, reference, numerics) if layout.judge is not None else Quality(passed)


def expected_logits(job: Job, prepared: Prepared, source: Source, made: Made) -> Reference:
    """Logits that compiled files must have: of their own rank files where these are quantized, else of the source."""
    plan, layout = prepared.plan, job.target.layout
    if not plan.quant.requested:
        max_memory = job.request.resources.max_memory
        return source_reference(job.runner, plan, source, prepared.texts, max_memory)
    assert layout is not None
    assert layout.kernels is not None
    return quantized_reference(job.runner, plan, made.weights, layout.kernels(plan.options), prepared.texts)
