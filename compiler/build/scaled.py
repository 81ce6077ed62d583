"""The stages that quantisation adds before convert, each behind the cache.

calibrated   what a text does inside the model; not of scheme, alpha, tp or target
scaled       what rows and columns are multiplied by; not of tp
with_scales  the checkpoint with the results of both, as convert takes it
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from compiler.quantization.scale_tensors import PREFIX
from compiler.report import amount
from compiler.calibration import activations as calibrate
from compiler.calibration.outliers import outliers
from compiler.calibration.samples import read_samples
from compiler.calibration import scales as scale
from compiler.storage.cache.stages import key_of
from compiler.build.notes import alphas_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from compiler.model.config import ModelConfig
    from compiler.model.lazy import Lazy
    from compiler.model.roles import TensorId
    from compiler.build.requests import Prepared
    from compiler.quantization.request import Quant
    from compiler.quantization.scaling import Scaling
    from compiler.report import Report
    from compiler.calibration.outliers import Outliers
    from compiler.calibration.samples import Samples
    from compiler.build.plan import Plan
    from compiler.storage.cache.stages import Entry, StageCache
    from compiler.storage.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class Source:
    """A checkpoint by its roles. `digest`: of the bytes it has, as convert's key has it."""

    config: ModelConfig
    tensors: Mapping[TensorId, Lazy]
    checkpoint: Checkpoint
    digest: str


@dataclass(frozen=True)
class CalibrateInputs:
    version: int
    source: str
    config: dict[str, Any]
    samples: str


@dataclass(frozen=True)
class ScaleInputs:
    """`calibration`: the digest of its result, empty where the scheme needs none."""

    version: int
    source: str
    config: dict[str, Any]
    quant: dict[str, Any]
    scaling: dict[str, Any]
    calibration: str


@dataclass(frozen=True)
class Scaled:
    """`checkpoint`: with scales among its tensors. `digest`: of these, empty where there are none. `alphas`: of every
    group of layers, where they were searched for; `outliers`: of every input, where a text was looked at.
    """

    checkpoint: Checkpoint
    digest: str = ""
    alphas: Mapping[str, float] = field(default_factory=dict)
    outliers: Sequence[Outliers] = ()


def samples_of(plan: Plan, tokenizer: Path | None) -> Samples | None:
    """What the plan calibrates with; None where it needs no text. `tokenizer`: a tokenizer.json.

    Raises CalibrationError, TokenizerError.
    """
    text = plan.quant.text
    if not plan.quant.calibrated:
        return None
    length = min(text.length, plan.config.max_positions)
    return read_samples(
        text.file, tokenizer, vocab=plan.config.vocab, count=text.samples, length=length, name=text.name
    )


def with_scales(
    cache: StageCache,
    report: Report,
    prepared: Prepared,
    digest: str,
    samples: Samples | None,
    max_memory: int,
) -> Scaled:
    """What the plan's rank files are made from. `digest`: of the source; `samples`: `samples_of` its plan."""
    plan = prepared.plan
    if plan.scaling is None or not any(_scales(tensor) for rank in plan.ranks for _, tensor in rank.tensors):
        return Scaled(prepared.checkpoint)
    source = Source(plan.config, plan.account.tensors, prepared.checkpoint, digest)
    calibration = None if samples is None else calibrated(cache, report, source, samples, max_memory)
    scales = scaled(cache, report, source, plan.quant, plan.scaling, calibration, max_memory)
    _, checkpoint = scale.beside(source.tensors, source.checkpoint, scales.folder / scale.RESULT)
    seen = outliers(_maxima(calibration)) if calibration else ()
    return Scaled(checkpoint, scales.files[0].digest, scales.facts["alphas"], seen)


def calibrated(cache: StageCache, report: Report, source: Source, samples: Samples, max_memory: int) -> Entry:
    """The entry with `calibrate.RESULT`. A run that was killed goes on where it was. Raises what `calibrate` raises."""
    inputs = CalibrateInputs(calibrate.VERSION, source.digest, source.config.to_json(), samples.digest)
    report.begin("calibrate")
    with cache.claim("calibrate", inputs) as claim:
        entry = claim.entry
        if entry is None:
            # Outside the folder of the claim, which is emptied whenever it is claimed; its lock guards this one too.
            partial = cache.partial / f"calibrate-{key_of('calibrate', inputs)}"
            facts = calibrate.calibrate(
                source.config,
                source.tensors,
                source.checkpoint,
                samples,
                work=partial,
                out=claim.folder,
                max_memory=max_memory,
                progress=lambda done, total: report.progress(done, total, "tokens x layers"),
            )
            entry = claim.commit(facts)
            partial.rmdir()
    dead = sum(entry.facts["dead_channels"].values())
    if dead:
        report.warn(f"{dead} channels are zero over the whole calibration text; they are not smoothed")
    report.end(f"{amount(entry.facts['tokens'], 'tokens')} of {samples.name}" if entry.fresh else "cached")
    return entry


def scaled(
    cache: StageCache,
    report: Report,
    source: Source,
    quant: Quant,
    scaling: Scaling,
    calibration: Entry | None,
    max_memory: int,
) -> Entry:
    """The entry with `scale.RESULT`. `calibration`: where `quant` needs one. Raises what `make_scales` raises."""
    decides = {name: value for name, value in quant.decides.items() if name != "text"}  # it has decided the calibration
    inputs = ScaleInputs(
        scale.VERSION,
        source.digest,
        source.config.to_json(),
        decides,
        {name: value for name, value in asdict(scaling).items() if name != "scheme"},
        calibration.files[0].digest if calibration else "",
    )
    report.begin("scales")
    with cache.claim("scales", inputs) as claim:
        entry = claim.entry
        if entry is None:
            made = scale.make_scales(
                source.config,
                source.tensors,
                source.checkpoint,
                claim.folder,
                scaling=scaling,
                alpha=quant.alpha,
                maxima=_maxima(calibration) if calibration else None,
                max_memory=max_memory,
                progress=lambda done, total: report.progress(done, total, "bytes"),
            )
            entry = claim.commit({"alphas": made if quant.alpha is None else {}})
    note = [scaling.scheme.name, amount(entry.files[0].size, "bytes"), alphas_text(entry.facts["alphas"])]
    report.end(", ".join(filter(None, note)) if entry.fresh else "cached")
    return entry


def _scales(tensor: Lazy) -> bool:
    return tensor.quantize is not None or any(piece.source.startswith(PREFIX) for piece in tensor.pieces)


def _maxima(calibration: Entry) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(calibration.folder / calibrate.RESULT)
