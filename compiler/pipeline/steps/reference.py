"""Reference logits, behind the cache: of the source model, or of the rank files of a quantized one in float32."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.parts import Part
from compiler.numerics import reference
from compiler.numerics.gate.sides import log_probabilities, of_files
from compiler.pipeline.package import parts_of, tokenizer_folder, vocabulary_digest
from compiler.pipeline.runner import Output, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from compiler.decoder.kernels import Kernels
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.runner import CachedRunner
    from compiler.pipeline.steps.digest import Source
    from compiler.storage.cache.stages import CacheEntry

QUANTIZED = "the quantised decoder in float32"

_VERSION = 1
_QUANTIZED_VERSION = 2


@dataclass(frozen=True)
class ReferenceInputs:
    """Cache key. `text`: digest of the tokenizer's vocabulary, empty where there is none."""

    version: int
    source: str
    config: dict[str, Any]
    text: str
    positions: int
    versions: dict[str, str]


@dataclass(frozen=True)
class QuantizedInputs:
    """Cache key. `files`: digests of the rank files."""

    version: int
    files: list[str]
    config: dict[str, Any]
    options: dict[str, Any]
    text: str
    positions: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Reference:
    """Logits that an artifact is compared with: `who` computed them, and the file that has them."""

    who: str
    part: Part


def source_reference(runner: CachedRunner, plan: Plan, source: Source, texts: Sequence[Part]) -> Reference:
    """Logits of the source model. `texts`: parts of the tokenizer."""
    inputs = ReferenceInputs(
        _VERSION,
        source.digest,
        plan.config.to_json(),
        vocabulary_digest(texts),
        _positions(plan),
        {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    )

    def logits(ids: NDArray[np.int64]) -> tuple[str, NDArray[np.float32]]:
        who, found = reference.reference_logits(plan.config, source.tensors, source.checkpoint, ids)
        return f"{who} {inputs.versions[who]}" if who in inputs.versions else who, found

    return _run(runner, plan, inputs, texts, logits)


def quantized_reference(
    runner: CachedRunner, plan: Plan, weights: Sequence[Part], kernels: Kernels, texts: Sequence[Part]
) -> Reference:
    """Logits of the rank files, `weights`, of a quantized model. The gate has compared these with the source, within
    the tolerance of the scheme: packages that compute the same in float32 can be held to the bounds of their dtype.
    """
    by_path = {part.path: part for part in weights}
    files = [by_path[rank.file] for rank in plan.ranks]
    inputs = QuantizedInputs(
        _QUANTIZED_VERSION,
        [part.descriptor.digest for part in files],
        plan.config.to_json(),
        plan.options.derived,
        vocabulary_digest(texts),
        _positions(plan),
        {name: version(name) for name in ("torch", "tokenizers")},
    )

    def logits(ids: NDArray[np.int64]) -> tuple[str, NDArray[np.float32]]:
        paths = [part.content for part in files if isinstance(part.content, Path)]
        side = of_files(plan.config, paths, kernels)
        return QUANTIZED, log_probabilities(side, plan.config, ids)

    return _run(runner, plan, inputs, texts, logits)


def _run(
    runner: CachedRunner,
    plan: Plan,
    inputs: ReferenceInputs | QuantizedInputs,
    texts: Sequence[Part],
    logits: Callable[[NDArray[np.int64]], tuple[str, NDArray[np.float32]]],
) -> Reference:
    """`logits`: token ids of the reference text to who computed, and the logits."""

    def run(folder: Path) -> Output:
        ids = reference.token_ids(tokenizer_folder(texts), plan.config.vocab, plan.limits.max_positions)
        who, found = logits(ids)
        reference.write_reference(folder / reference.REFERENCE, ids, found)
        return Output({"reference": who})

    def note(entry: CacheEntry) -> str:
        return f"logits of {inputs.positions} tokens by {entry.facts['reference']}"

    entry = runner.run(Step("reference", inputs, run, note))
    (part,) = parts_of(entry)
    return Reference(str(entry.facts["reference"]), part)


def _positions(plan: Plan) -> int:
    return min(reference.TOKENS, plan.limits.max_positions - 1)
