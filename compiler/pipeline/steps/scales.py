"""Compute the scales of a quantized model, behind the cache, and put them beside the weights of the source."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from compiler.calibration import activations, feedback, scales
from compiler.calibration.outliers import outliers
from compiler.pipeline.notes import alphas_text
from compiler.pipeline.runner import Output, Step
from compiler.pipeline.steps.calibrate import calibrate
from compiler.pipeline.steps.feedback import compensate
from compiler.quantization.scale_tensors import PREFIX
from compiler.quantization.schemes import FEEDBACK
from compiler.report import amount, progress_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from compiler.calibration.outliers import Outliers
    from compiler.calibration.samples import Samples
    from compiler.model.lazy import Lazy
    from compiler.model.roles import TensorId
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.runner import CachedRunner
    from compiler.pipeline.steps.digest import Source
    from compiler.quantization.request import Quant
    from compiler.quantization.scaling import Scaling
    from compiler.storage.cache.stages import CacheEntry
    from compiler.storage.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class ScaleInputs:
    """Cache key. `calibration`, `rounded`: digests of their files, empty where the scheme needs none."""

    version: int
    source: str
    config: dict[str, Any]
    quant: dict[str, Any]
    scaling: dict[str, Any]
    calibration: str
    rounded: str = ""


@dataclass(frozen=True)
class Scaled:
    """The source with scales among its `tensors` and those of its `checkpoint`. `digest`: of the scales, empty where
    there are none. `alphas`: of every group of layers, where searched for; `outliers`: of every input, where there was
    a text.
    """

    tensors: Mapping[TensorId, Lazy]
    checkpoint: Checkpoint
    digest: str = ""
    alphas: Mapping[str, float] = field(default_factory=dict)
    outliers: Sequence[Outliers] = ()


def with_scales(runner: CachedRunner, source: Source, plan: Plan, samples: Samples | None, max_memory: int) -> Scaled:
    """The input of convert. `samples`: `calibration_samples` of the plan."""
    if plan.scaling is None or not any(_needs_scales(tensor) for rank in plan.ranks for _, tensor in rank.tensors):
        return Scaled(source.tensors, source.checkpoint)
    scheme, calibration, rounded = plan.scaling.scheme, None, None
    if samples is not None and scheme.feedback is not None:
        rounded = compensate(runner, source, scheme.feedback, samples, plan.quant.device, max_memory)
    if samples is not None and (plan.scaling.cache or scheme.search != FEEDBACK):
        calibration = calibrate(runner, source, samples, plan.quant.device, max_memory)
    made = make_scales(runner, source, plan.quant, plan.scaling, calibration, max_memory, rounded)
    files = [made.folder / scales.RESULT, *([rounded.folder / feedback.WEIGHTS] if rounded else [])]

    def taken(tensor: TensorId) -> bool:
        return tensor.part != "weight" or scheme.at(tensor.layer or 0, tensor.role).rounds_with_feedback or not rounded

    tensors, checkpoint = scales.with_scales(source.tensors, source.checkpoint, *files, taken=taken)
    seen = outliers(_maxima(calibration)) if calibration else ()
    digest = " ".join([made.files[0].digest, *(file.digest for file in (rounded.files if rounded else ()))])
    return Scaled(tensors, checkpoint, digest, made.facts["alphas"], seen)


def make_scales(
    runner: CachedRunner,
    source: Source,
    quant: Quant,
    scaling: Scaling,
    calibration: CacheEntry | None,
    max_memory: int,
    rounded: CacheEntry | None = None,
) -> CacheEntry:
    """The entry with `scales.RESULT`. `calibration`: where `quant` needs one. `rounded`: weights that are rounded
    already, and their scales.

    Raises the errors of `scales.make_scales`.
    """
    inputs = ScaleInputs(
        scales.VERSION,
        source.digest,
        source.config.to_json(),
        {name: value for name, value in quant.decides.items() if name != "text"},  # the calibration depends on it
        # Without a quantized head the key is that from before there was one.
        {name: value for name, value in asdict(scaling).items() if name != "scheme" and (name != "head" or value)},
        calibration.files[0].digest if calibration else "",
        " ".join(file.digest for file in rounded.files) if rounded else "",
    )

    def run(folder: Path) -> Output:
        from safetensors.numpy import load_file

        alphas = scales.make_scales(
            source.config,
            source.tensors,
            source.checkpoint,
            folder,
            scaling=scaling,
            alpha=quant.alpha,
            maxima=_maxima(calibration) if calibration else None,
            own=load_file(rounded.folder / feedback.SCALES) if rounded else None,
            max_memory=max_memory,
            progress=progress_in(runner.report, "bytes"),
        )
        return Output({"alphas": alphas if quant.alpha is None else {}})

    def note(entry: CacheEntry) -> str:
        words = [scaling.scheme.name, amount(entry.files[0].size, "bytes"), alphas_text(entry.facts["alphas"])]
        return ", ".join(filter(None, words))

    return runner.run(Step("scales", inputs, run, note))


def _needs_scales(tensor: Lazy) -> bool:
    return tensor.quantize is not None or any(piece.source.startswith(PREFIX) for piece in tensor.pieces)


def _maxima(calibration: CacheEntry) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(calibration.folder / activations.RESULT)
