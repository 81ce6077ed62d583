"""Verification of an artifact: its files against the manifest, its logits against the model.

digests     every file has the size and the sha256 of the manifest
layout      every rank file has exactly the tensors, shapes and dtype that follow from the manifest's config; the target
            checks its other files
numerics    logits of the artifact, by its target's runner, against those of the source model or of its own rank files,
            over the rows of `proof.py`; skipped where this machine cannot run the artifact
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from compiler.artifact.check import check_files
from compiler.artifact.manifest import load_manifest
from compiler.artifact.quantization import quant_of
from compiler.errors import ArtifactError
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import whole
from compiler.model.roles import axis_sizes, model_tensors, shape_of
from compiler.numerics.compare import thresholds, widened
from compiler.numerics.gate.sides import log_probabilities, side_of
from compiler.numerics.passages import REFERENCE, read_reference
from compiler.numerics.proof import proof_of
from compiler.numerics.record import numerics
from compiler.quantization.scale_tensors import scale_tensors
from compiler.storage.checkpoints.header import HeaderError, read_header
from compiler.storage.files.digest import sha256_file
from compiler.targets import load
from compiler.targets.runners import runner_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Manifest, Numerics
    from compiler.model.config import ModelConfig
    from compiler.numerics.compare import Thresholds
    from compiler.numerics.passages import Expected
    from compiler.storage.files.digest import Digest
    from compiler.targets.protocols import Target

VERSION = 4
"""Version of this step, part of its cache key: raised when the same artifact and reference give other figures."""


class Logits(Protocol):
    """Runs an artifact: token ids int64 [tokens] of some rows to logits float32 [tokens, vocab] of each."""

    def __call__(self, artifact: Path, rows: Sequence[NDArray[np.int64]], /) -> Sequence[NDArray[np.float32]]: ...


def verify(
    folder: Path,
    logits: Logits | None = None,
    *,
    expected: Expected | None = None,
    max_memory: int = 1 << 30,
    digest: Callable[[Path], Digest] = sha256_file,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Verify the artifact in `folder`; return its manifest with `numerics` measured by `logits` (default: its runner).

    `expected`: logits of the source, to use in place of those in the artifact. `max_memory`: ceiling of a judge, in
    bytes. `digest` computes the sha256 of a file; `progress(bytes, total bytes)`.
    Raises ArtifactError, IncompatibleError, NumericsError, RankError.
    """
    manifest = load_manifest(folder)
    runner = runner_of(manifest, max_memory)
    if runner is not None:
        runner.check(manifest)
    check_files(manifest, folder, by="sha256", digest=digest, progress=progress)
    check_layout(manifest, folder)
    runs = logits or (runner.logits if runner is not None and runner.computes else None)
    if manifest.stand_in or runs is None:
        return manifest
    stored = expected is None or manifest.quantisation is None
    who = manifest.numerics.reference if manifest.numerics and stored else "its source"
    measured = measure(manifest, folder, who, runs, expected, max_memory)
    return manifest.model_copy(update={"numerics": measured})


def measure(
    manifest: Manifest,
    folder: Path,
    reference: str,
    logits: Logits,
    expected: Expected | None = None,
    max_memory: int = 1 << 30,
) -> Numerics:
    """Figures of the artifact in `folder` against `expected`, or its reference.safetensors, made by `reference`.

    Rows with lowered limits run on the rank files: limits are constants of compiled files.
    Raises NumericsError where a figure is beyond its threshold.
    """
    bounds = bounds_of(manifest) if expected is None else source_bounds(manifest)
    expected = expected or read_reference(folder / REFERENCE)
    bounds = widened(bounds, expected.floor)
    proof = proof_of(manifest.config, manifest.limits.max_positions)
    lowered = None
    if expected.lowered is not None and proof.lowered is not None:
        lowered = _lowered_logits(manifest, folder, proof.lowered, expected.lowered.rows, max_memory)
    return numerics(expected, logits(folder, expected.straight.rows), lowered, bounds, reference, proof)


def _lowered_logits(
    manifest: Manifest, folder: Path, lowered: ModelConfig, rows: Sequence[NDArray[np.int64]], max_memory: int
) -> list[NDArray[np.float32]] | None:
    """Log probabilities [tokens, vocab] of each row by the rank files; None where the artifact has none."""
    target = load(manifest.target)
    inside = target.packager.rank_folder(manifest)
    if target.layout is None or inside is None:
        return None
    files = [folder / path for path in manifest.section.rank_files]
    options = target.packager.options_of(manifest)
    side = side_of(target.layout, manifest.config, options, folder / inside, files, max_memory, lowered)
    return log_probabilities(side, lowered, rows)


def bounds_of(manifest: Manifest) -> Thresholds:
    """Thresholds of the artifact's logits against its reference: its own rank files where the runner is compared with
    them, else the source, from which quantization has moved the logits.
    """
    runner = runner_of(manifest)
    own = runner is not None and runner.reference == "rank files"
    return thresholds(_coarsest(manifest)) if own else source_bounds(manifest)


def _coarsest(manifest: Manifest) -> str:
    """Dtype whose rounding is the coarsest of an artifact's: an activation or a cache entry of 8 bits that rounding of
    float32 moves to the next step is off by as much as one of float16 and more, in every layer behind it.
    """
    return "float16" if manifest.dtype == "float32" and manifest.quantisation is not None else manifest.dtype


def source_bounds(manifest: Manifest) -> Thresholds:
    """Thresholds of the artifact's logits against those of the source."""
    found = manifest.quantisation
    return thresholds(manifest.dtype, found.gate.bounds if found else None)


def check_layout(manifest: Manifest, folder: Path) -> None:
    """Check the files of an artifact against its config. Raises ArtifactError that lists every tensor that is missing,
    unexpected, or of another shape or dtype, and the problems that the target finds.
    """
    target = load(manifest.target)
    inside = target.packager.rank_folder(manifest)
    problems = [] if inside is None else _rank_problems(manifest, target, folder / inside)
    problems += target.packager.problems(manifest, folder)
    if problems:
        raise ArtifactError(
            "\n".join(["the files do not fit the manifest:", *(f"  {p}" for p in problems[:40])]),
            hint="build the artifact again",
        )


def _rank_problems(manifest: Manifest, target: Target[Any], folder: Path) -> list[str]:
    config = manifest.config
    sizes = axis_sizes(config)
    dtype = DTYPES[manifest.dtype]
    sources = {t: whole(str(t), shape_of(t, sizes), dtype) for t in model_tensors(config)}
    quant, options = quant_of(manifest.quantisation), target.packager.options_of(manifest)
    scaling = target.support.scaling(config, quant, options) if quant.requested else None
    sources |= scale_tensors(config, sources, scaling)
    plans = target.layout.rank_plans(config, manifest.parallel.tp, sources, dtype, options) if target.layout else ()
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
