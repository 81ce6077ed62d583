"""The stages that compare logits, each behind the cache.

reference    what the source model says; not of tp or target
quantised    what the rank files of a quantised model say in float32: what its packages are compared with
judged       what the target's judge reads out of the rank files
measured     what the finished artifact computes
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from compiler.artifact.manifest import Numerics
from compiler.artifact.parts import Part
from compiler.build.cached import parts_of
from compiler.numerics import compare as numerics
from compiler.build import package
from compiler.numerics import reference
from compiler.numerics import verify
from compiler.numerics.gate.sides import log_probabilities, of_files
from compiler.build.notes import figures_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Manifest
    from compiler.artifact.quantization import Quantisation
    from compiler.model.config import ModelConfig
    from compiler.build.cached import Converted, Job
    from compiler.build.requests import Prepared
    from compiler.build.plan import Plan
    from compiler.numerics.verify import Logits
    from compiler.storage.cache.stages import Entry
    from compiler.targets.values import Judge

QUANTISED = "the quantised decoder in float32"

_REFERENCE_VERSION = 1
_QUANTISED_VERSION = 2
_JUDGE_VERSION = 1


@dataclass(frozen=True)
class ReferenceInputs:
    version: int
    source: str
    config: dict[str, Any]
    text: str
    positions: int
    versions: dict[str, str]


@dataclass(frozen=True)
class QuantisedInputs:
    """`files`: digests of the rank files."""

    version: int
    files: list[str]
    config: dict[str, Any]
    options: dict[str, Any]
    text: str
    positions: int
    versions: dict[str, str]


@dataclass(frozen=True)
class JudgeInputs:
    """`files`: digests of the rank files and those beside them."""

    version: int
    source: str
    plan: str
    files: list[str]
    reference: str
    thresholds: dict[str, float]


@dataclass(frozen=True)
class VerifyInputs:
    version: int
    manifest: str
    thresholds: dict[str, float]


@dataclass(frozen=True)
class Reference:
    """Logits of the source: `who` computed them, and the file that has them."""

    who: str
    part: Part


def referenced(job: Job, prepared: Prepared, source: str, texts: Sequence[Part]) -> Reference:
    plan = prepared.plan
    inputs = ReferenceInputs(
        _REFERENCE_VERSION,
        source,
        plan.config.to_json(),
        _digest(texts),
        min(reference.TOKENS, plan.limits.max_positions - 1),
        {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    )

    def logits(ids: NDArray[np.int64]) -> tuple[str, NDArray[np.float32]]:
        who, found = reference.reference_logits(plan.config, plan.account.tensors, prepared.checkpoint, ids)
        return f"{who} {inputs.versions[who]}" if who in inputs.versions else who, found

    return _kept(job, plan, inputs, texts, logits)


def quantised(job: Job, prepared: Prepared, files: Converted, texts: Sequence[Part]) -> Reference:
    """`referenced` for a quantised model. The gate has compared its rank files with the source, within what its scheme
    may cost; packages that compute what these files say in float32 can so be held to the bounds of their dtype.
    """
    plan, layout = prepared.plan, job.target.layout
    assert layout is not None
    assert layout.kernels is not None
    kernels = layout.kernels
    by_path = {part.path: part for part in files.parts}
    inputs = QuantisedInputs(
        _QUANTISED_VERSION,
        [by_path[rank.file].descriptor.digest for rank in plan.ranks],
        plan.config.to_json(),
        plan.options.derived,
        _digest(texts),
        min(reference.TOKENS, plan.limits.max_positions - 1),
        {name: version(name) for name in ("torch", "tokenizers")},
    )

    def logits(ids: NDArray[np.int64]) -> tuple[str, NDArray[np.float32]]:
        side = of_files(plan.config, [files.folder / rank.file for rank in plan.ranks], kernels(plan.options))
        return QUANTISED, log_probabilities(side, plan.config, ids)

    return _kept(job, plan, inputs, texts, logits)


def _kept(
    job: Job,
    plan: Plan,
    inputs: ReferenceInputs | QuantisedInputs,
    texts: Sequence[Part],
    logits: Callable[[NDArray[np.int64]], tuple[str, NDArray[np.float32]]],
) -> Reference:
    """What `logits` says of the reference text (who, and the logits), from the cache where it was said before."""
    job.report.begin("reference")
    with job.cache.claim("reference", inputs) as claim:
        entry = claim.entry
        if entry is None:
            job.made["reference"] = 1
            ids = reference.token_ids(package.tokenizer_json(texts), plan.config.vocab, plan.limits.max_positions)
            who, found = logits(ids)
            reference.write_reference(claim.folder / reference.REFERENCE, ids, found)
            entry = claim.commit({"reference": who})
    who = str(entry.facts["reference"])
    (part,) = parts_of(entry)
    job.report.end(f"logits of {inputs.positions} tokens by {who}" if entry.fresh else "cached")
    return Reference(who, part)


def _digest(texts: Sequence[Part]) -> str:
    """Of the tokenizer.json among them, empty where there is none."""
    return next((part.descriptor.digest for part in texts if part.path == "tokenizer/tokenizer.json"), "")


def judged(
    job: Job,
    prepared: Prepared,
    source: str,
    files: Converted,
    judge_of: Callable[[Path, ModelConfig, int], Judge],
    by: Reference,
    quantisation: Quantisation | None,
) -> Numerics:
    """Figures of the rank files, before any toolchain sees them. Raises NumericsError, ArtifactError."""
    plan = prepared.plan
    bounds = numerics.thresholds(plan.dtype, quantisation.gate.bounds if quantisation else None)
    digests = sorted(part.descriptor.digest for part in files.parts)
    inputs = JudgeInputs(_JUDGE_VERSION, source, plan.digest, digests, by.part.descriptor.digest, asdict(bounds))
    job.report.begin("judge")
    with job.cache.claim("judge", inputs) as claim:
        entry = claim.entry
        if entry is None:
            job.made["judge"] = 1
            assert not isinstance(by.part.content, bytes)
            ids, expected = reference.read_reference(by.part.content)
            found = judge_of(files.folder, plan.config, job.request.ask.max_memory).logits(ids)
            figures = verify.numerics(expected, found, bounds, by.who)
            entry = claim.commit({"numerics": figures.model_dump(mode="json")})
    figures = _numerics(entry)
    job.report.end(figures_text(figures) if entry.fresh else "cached")
    return figures


def verify_inputs(draft: Manifest) -> VerifyInputs:
    return VerifyInputs(verify.VERSION, draft.substance.digest, asdict(verify.bounds_of(draft)))


def measured(job: Job, draft: Manifest, folder: Path, who: str, logits: Logits) -> Entry:
    with job.cache.claim("verify", verify_inputs(draft)) as claim:
        if claim.entry is not None:
            return claim.entry
        job.made["verify"] = 1
        figures = verify.measure(draft, folder, who, logits)
        return claim.commit({"numerics": figures.model_dump(mode="json")})


def with_numerics(draft: Manifest, entry: Entry) -> Manifest:
    return draft.model_copy(update={"numerics": _numerics(entry)})


def _numerics(entry: Entry) -> Numerics:
    return Numerics(**entry.facts["numerics"])
