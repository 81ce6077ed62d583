"""Is an artifact what its manifest says, and does it compute what the model computes?

digests     every file has the size and the sha256 that the manifest states
layout      every rank file has the tensors, shapes and dtype that follow from the manifest's config, and no others;
            what else the target can say of its files
numerics    logits of the artifact against those of the source model: by the prefill and the decode packages, or by the
            target's judge over its rank files; not again where an artifact has neither
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from compiler.artifact.check import check_files, check_machine
from compiler.artifact.manifest import Numerics, load_manifest
from compiler.artifact.quantization import quant_of
from compiler.errors import ArtifactError
from compiler.model.config import ModelConfig
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import whole
from compiler.model.roles import axis_sizes, model_tensors, shape_of
from compiler.numerics.compare import compare, judge, thresholds
from compiler.numerics.reference import REFERENCE, read_reference
from compiler.quantization.planned import planned
from compiler.storage.checkpoints.header import HeaderError, read_header
from compiler.storage.files.digest import sha256_file
from compiler.targets import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Manifest
    from compiler.numerics.compare import Thresholds
    from compiler.storage.files.digest import Digest
    from compiler.targets import Target

VERSION = 2
"""Of this stage: raised when the same artifact and reference give other figures."""


class Logits(Protocol):
    """Runs an artifact: token ids int64 [tokens] to logits float32 [tokens, vocab]."""

    def __call__(self, artifact: Path, token_ids: NDArray[np.int64], /) -> NDArray[np.float32]: ...


def verify(
    folder: Path,
    logits: Logits | None = None,
    *,
    expected: NDArray[np.float32] | None = None,
    max_memory: int = 1 << 30,
    digest: Callable[[Path], Digest] = sha256_file,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """The manifest of `folder`, its `numerics` measured now by `logits` (default: see `logits_of`).

    `expected`: logits of the source for the reference's tokens, where those in the artifact shall not be
    believed. `max_memory`: bytes that a judge may use. `digest` computes the sha256 of a file;
    `progress(bytes, bytes in all)` is told of them.
    Raises ArtifactError, IncompatibleError, NumericsError, RankError.
    """
    manifest = load_manifest(folder)
    if manifest.segments is not None:
        check_machine(manifest)
    done, total = 0, sum(file.size for file in manifest.files)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    check_files(manifest, folder, by="sha256", digest=digest, progress=advance)
    check_layout(manifest, folder)
    runs = logits or logits_of(manifest, max_memory)
    if manifest.stand_in or runs is None:
        return manifest
    stored = expected is None or manifest.quantisation is None
    who = manifest.numerics.reference if manifest.numerics and stored else "its source"
    measured = measure(manifest, folder, who, runs, expected)
    return manifest.model_copy(update={"numerics": measured})


def logits_of(manifest: Manifest, max_memory: int) -> Logits | None:
    """What computes the logits of an artifact on this machine; None: nothing does."""
    if manifest.segments is not None:
        return run_logits
    target = load(manifest.target)
    judge_of, inside = target.judge_of, target.rank_folder(manifest)
    if judge_of is None or inside is None:
        return None
    config = ModelConfig.from_json(manifest.model.config)
    return lambda folder, ids: judge_of(folder / inside, config, max_memory).logits(ids)


def measure(
    manifest: Manifest,
    folder: Path,
    reference: str,
    logits: Logits,
    expected: NDArray[np.float32] | None = None,
) -> Numerics:
    """Figures of the artifact in `folder` against `expected`, or its reference.safetensors, made by
    `reference`.

    Raises NumericsError where a figure is beyond its threshold.
    """
    ids, stored = read_reference(folder / REFERENCE)
    found, bounds = logits(folder, ids), bounds_of(manifest) if expected is None else source_bounds(manifest)
    return numerics(stored if expected is None else expected, found, bounds, reference)


def numerics(
    expected: NDArray[np.float32],
    found: NDArray[np.float32],
    bounds: Thresholds,
    reference: str,
    file: str | None = REFERENCE,
) -> Numerics:
    """Figures of the logits `found` [tokens, vocab]. Raises NumericsError where one is beyond its threshold."""
    figures = compare(expected, found)
    judge(figures, bounds)
    return Numerics(
        reference=reference,
        reference_file=file,
        tokens=len(expected),
        thresholds=asdict(bounds),
        **asdict(figures),
    )


def bounds_of(manifest: Manifest) -> Thresholds:
    """What its logits may be off from its reference. That of segments is what their own rank files say, quantised or
    not; that of what a judge reads is the source, from which quantisation has moved it.
    """
    return source_bounds(manifest) if manifest.segments is None else thresholds(manifest.dtype)


def source_bounds(manifest: Manifest) -> Thresholds:
    """What its logits may be off from those of the source."""
    found = manifest.quantisation
    return thresholds(manifest.dtype, found.gate.bounds if found else None)


def run_logits(artifact: Path, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits by the runtime, so that every package has its part in them.

    The first half of the tokens goes through prefill; the others through decode steps of one row, of two and
    of as many as the artifact takes, which give the logits in turn.
    """
    from compiler.runtime.generate import load as load_model

    begin = (len(token_ids) + 1) // 2
    with load_model(artifact) as model:
        batches = sorted({1, min(2, model.max_batch), model.max_batch})
        runs = [model.logits(token_ids.tolist(), decode_from=begin, rows=rows) for rows in batches]
    logits = runs[0].copy()
    for turn, run in enumerate(runs):
        logits[begin + turn :: len(runs)] = run[begin + turn :: len(runs)]
    return logits


def check_layout(manifest: Manifest, folder: Path) -> None:
    """Raises ArtifactError that lists every tensor that is missing, unexpected, or of another shape or dtype, and what
    else the target finds wrong.
    """
    target = load(manifest.target)
    inside = target.rank_folder(manifest)
    problems = [] if inside is None else _rank_problems(manifest, target, folder / inside)
    problems += target.problems(manifest, folder)
    if problems:
        raise ArtifactError(
            "\n".join(["the files do not fit the manifest:", *(f"  {p}" for p in problems[:40])]),
            hint="build the artifact again",
        )


def _rank_problems(manifest: Manifest, target: Target, folder: Path) -> list[str]:
    config = ModelConfig.from_json(manifest.model.config)
    sizes = axis_sizes(config)
    dtype = DTYPES[manifest.dtype]
    sources = {t: whole(str(t), shape_of(t, sizes), dtype) for t in model_tensors(config)}
    quant, options = quant_of(manifest.quantisation), target.options_of(manifest)
    sources |= planned(config, sources, target.scaling(config, quant, options) if quant.asked else None)
    plans = target.rank_plans(config, manifest.parallel.tp, sources, dtype, options)
    problems = []
    for plan in plans:
        try:
            entries = read_header(folder / plan.file)
        except HeaderError as error:
            problems += [f"{plan.file}: {problem}" for problem in error.problems]
            continue
        found = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
        expected = {name: (tensor.dtype, tensor.stored_shape) for name, tensor in plan.tensors}
        for name in sorted(expected.keys() | found.keys()):
            if found.get(name) != expected.get(name):
                wanted, there = _shown(expected.get(name)), _shown(found.get(name))
                problems.append(f"{plan.file}: `{name}`: expected {wanted}, found {there}")
    return problems


def _shown(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "nothing" if tensor is None else f"{tensor[0]} {list(tensor[1])}"
