"""Put an artifact together out of files that exist already, and put it in place in one step."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from compiler import __version__
from compiler.artifact.manifest import MANIFEST, ArtifactLimits, File, Manifest, Parallel
from compiler.artifact.parts import existing
from compiler.errors import TokenizerError, UsageError
from compiler.storage.files.disk import disk_full
from compiler.storage.checkpoints.source import CONFIGS, TEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from compiler.artifact.manifest import Device, Model
    from compiler.artifact.parts import Part
    from compiler.artifact.quantization import Quantisation
    from compiler.storage.files.digest import DigestMemo
    from compiler.targets.options import TargetOptions
    from compiler.targets.values import Contents, Planned

_VOCABULARIES = {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"}
"""Files without which the other files of a tokenizer are of no use."""


def tokenizer_parts(source: Path, tokenizer: Path | None) -> list[Part]:
    """The files of tokenizer/: of the folder `tokenizer` where given, else of the checkpoint `source`.

    Raises TokenizerError where `tokenizer` is given and has no vocabulary.
    """
    if tokenizer is not None and not any((tokenizer / name).is_file() for name in _VOCABULARIES):
        raise TokenizerError(
            f"no tokenizer in {tokenizer}: expected one of {', '.join(sorted(_VOCABULARIES))}",
            hint="`--tokenizer` takes a folder with the tokenizer's files, best with a tokenizer.json",
        )
    found = [*_matching(tokenizer or source, TEXT), *_matching(source, CONFIGS)]
    return [existing(path, f"tokenizer/{path.name}") for path in found]


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    paths = (path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return sorted(set(paths))


def tokenizer_json(parts: Sequence[Part]) -> Path | None:
    """The tokenizer.json among the parts, for those who read it before it is packed."""
    found = next((part.content for part in parts if part.path == "tokenizer/tokenizer.json"), None)
    return None if isinstance(found, bytes) else found


def has_vocabulary(parts: Sequence[Part]) -> bool:
    return any(part.name in _VOCABULARIES for part in parts)


def draft_manifest(
    plan: Planned[TargetOptions],
    contents: Contents,
    *,
    name: str,
    target: str,
    model: Model,
    device: Device,
    toolchain: Mapping[str, str],
    parts: Sequence[Part],
    stand_in: bool,
    quantisation: Quantisation | None = None,
) -> Manifest:
    """The manifest of an artifact of these parts, before its numerics are known."""
    return Manifest(
        writer=__version__,
        name=name,
        model=model,
        target=target,
        toolchain=dict(toolchain),
        device=device,
        parallel=Parallel(tp=plan.tp, **plan.options.split),
        dtype=cast("Literal['bfloat16', 'float16', 'float32']", plan.dtype),  # make_plan refused others
        limits=ArtifactLimits(**asdict(plan.limits)),
        files=tuple(File(**asdict(part.descriptor)) for part in sorted(parts, key=lambda part: part.path)),
        plan_digest=plan.digest,
        stand_in=stand_in,
        quantisation=quantisation,
        section=contents.section,
    )
