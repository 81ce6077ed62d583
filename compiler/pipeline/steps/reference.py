"""Reference logits, behind the cache: of the source model, or of the rank files of a quantized one in float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.parts import Part
from compiler.numerics.gate.sides import log_probabilities, of_files
from compiler.numerics.passages import REFERENCE, Expected, Passage, token_rows, write_reference
from compiler.numerics.record import floor_of
from compiler.numerics.reference import source_passages
from compiler.pipeline.parts import parts_of, tokenizer_folder, vocabulary_digest
from compiler.pipeline.runner import Output, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compiler.decoder.kernels import Kernels
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.runner import CachedRunner
    from compiler.pipeline.steps.digest import Source
    from compiler.storage.cache.stages import CacheEntry

QUANTIZED = "the quantised decoder in float32"

_VERSION = 2
_QUANTIZED_VERSION = 5


@dataclass(frozen=True)
class ReferenceInputs:
    """Cache key. `text`: digest of tokenizer.json, empty where there is none."""

    version: int
    source: str
    config: dict[str, Any]
    text: str
    proof: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class QuantizedInputs:
    """Cache key. `files`: digests of the rank files."""

    version: int
    files: list[str]
    config: dict[str, Any]
    options: dict[str, Any]
    text: str
    rows: list[int]
    versions: dict[str, str]


@dataclass(frozen=True)
class Reference:
    """Logits that an artifact is compared with: `who` computed them, and the file that has them."""

    who: str
    part: Part


def source_reference(
    runner: CachedRunner, plan: Plan, source: Source, texts: Sequence[Part], max_memory: int
) -> Reference:
    """Logits of the source model, also with lowered limits. `texts`: parts of the tokenizer. `max_memory`: ceiling of
    weights in float32, in bytes.
    """
    proof = plan.proof
    inputs = ReferenceInputs(
        _VERSION,
        source.digest,
        plan.config.to_json(),
        vocabulary_digest(texts),
        proof.to_json(),
        {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    )

    def expected() -> tuple[str, Expected]:
        rows = token_rows(tokenizer_folder(texts), plan.config.vocab, proof)
        model = (source.tensors, source.checkpoint)
        who, found = source_passages(plan.config, proof.lowered, *model, rows, max_memory)
        return f"{who} {inputs.versions[who]}" if who in inputs.versions else who, found

    return _run(runner, inputs, expected, proof.text)


def quantized_reference(
    runner: CachedRunner, plan: Plan, weights: Sequence[Part], kernels: Kernels, texts: Sequence[Part]
) -> Reference:
    """Logits of the rank files, `weights`, of a quantized model. The gate has compared these with the source, within
    the tolerance of the scheme, also with lowered limits: packages that compute the same in float32 can be held to the
    bounds of their dtype.
    """
    by_path = {part.path: part for part in weights}
    files = [by_path[rank.file] for rank in plan.ranks]
    proof = plan.proof
    inputs = QuantizedInputs(
        _QUANTIZED_VERSION,
        [part.descriptor.digest for part in files],
        plan.config.to_json(),
        plan.options.derived,
        vocabulary_digest(texts),
        list(proof.rows),
        {name: version(name) for name in ("torch", "tokenizers")},
    )

    def expected() -> tuple[str, Expected]:
        paths = [part.content for part in files if isinstance(part.content, Path)]
        rows, _ = token_rows(tokenizer_folder(texts), plan.config.vocab, proof)
        exact, rounded = (of_files(plan.config, paths, kernels, wide=wide) for wide in (True, False))
        passage = Passage.of(rows, log_probabilities(exact, plan.config, rows))
        floor = floor_of(passage, log_probabilities(rounded, plan.config, rows))
        return QUANTIZED, Expected(passage, floor=floor)

    return _run(runner, inputs, expected, replace(proof, lowered=None).text)


def _run(
    runner: CachedRunner,
    inputs: ReferenceInputs | QuantizedInputs,
    expected: Callable[[], tuple[str, Expected]],
    rows: str,
) -> Reference:
    """`expected`: who computed, and the logits. `rows`: for the note."""

    def run(folder: Path) -> Output:
        who, found = expected()
        write_reference(folder / REFERENCE, found)
        return Output({"reference": who})

    def note(entry: CacheEntry) -> str:
        return f"logits of {rows} by {entry.facts['reference']}"

    entry = runner.run(Step("reference", inputs, run, note))
    (part,) = parts_of(entry)
    return Reference(str(entry.facts["reference"]), part)
