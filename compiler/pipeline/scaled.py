"""The stages that quantisation adds before convert, each behind the cache.

calibrated   what a text does inside the model; not of scheme, alpha, tp or target
scaled       what rows and columns are multiplied by; not of tp or target
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compiler.quant.scaling import Scaling
from compiler.report import amount
from compiler.stages import calibrate, scale
from compiler.store.cache import key_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.ir.config import ModelConfig
    from compiler.ir.lazy import Lazy
    from compiler.ir.roles import TensorId
    from compiler.quant.schemes import Scheme
    from compiler.report import Report
    from compiler.stages.samples import Samples
    from compiler.store.cache import Entry, StageCache
    from compiler.store.checkpoint import Checkpoint


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
    scheme: dict[str, Any]
    alpha: float
    calibration: str


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
    scheme: Scheme,
    alpha: float,
    calibration: Entry | None,
    max_memory: int,
) -> Entry:
    """The entry with `scale.RESULT`. `calibration`: where the scheme needs one. Raises what `make_scales` raises."""
    inputs = ScaleInputs(
        scale.VERSION,
        source.digest,
        source.config.to_json(),
        asdict(scheme),
        # Schemes that do not smooth do not know alpha: one entry serves whatever was said.
        alpha if scheme.search else 0.0,
        calibration.files[0].digest if calibration else "",
    )
    report.begin("scales")
    with cache.claim("scales", inputs) as claim:
        entry = claim.entry
        if entry is None:
            scale.make_scales(
                source.config,
                source.tensors,
                source.checkpoint,
                claim.folder,
                scaling=Scaling(scheme),
                alpha=alpha,
                maxima=_maxima(calibration) if calibration else None,
                max_memory=max_memory,
                progress=lambda done, total: report.progress(done, total, "bytes"),
            )
            entry = claim.commit()
    report.end(f"{scheme.name}, {amount(entry.files[0].size, 'bytes')}" if entry.fresh else "cached")
    return entry


def _maxima(calibration: Entry) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(calibration.folder / calibrate.RESULT)
