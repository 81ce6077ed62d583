"""Files of an artifact as parts: those of its tokenizer, and those of a cache entry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.artifact.parts import Part, existing, media_type, written
from compiler.errors import TokenizerError
from compiler.storage.checkpoints.checkpoint import read_config
from compiler.storage.checkpoints.source import CONFIGS, QUANTIZATIONS, TEXT
from compiler.tokenizer.load import converted, vocabulary_in
from compiler.tokenizer.vocabulary import vocabulary_names, vocabulary_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.pipeline.resolve import LocatedModel
    from compiler.storage.cache.stages import CacheEntry


def tokenizer_parts(source: Path, tokenizer: Path | None) -> list[Part]:
    """The files of tokenizer/: of the folder `tokenizer` where given, else of the checkpoint `source`. A vocabulary of
    mergeable ranks is packed as a tokenizer.json, too.

    Raises TokenizerError where `tokenizer` is given and has no vocabulary, or ranks cannot be read.
    """
    folder = tokenizer or source
    if not folder.is_dir() or (vocabulary := vocabulary_in(folder)) is None:
        vocabulary = None
        if tokenizer is not None:
            raise TokenizerError(
                f"no tokenizer in {tokenizer}: expected one of {vocabulary_names()}",
                hint="`--tokenizer` takes a folder with the tokenizer's files, best with a tokenizer.json",
            )
    found = {path.name: path for path in (*_matching(folder, TEXT), *_matching(source, CONFIGS))}
    made = converted(folder, vocabulary) if vocabulary is not None and vocabulary.reader == "ranks" else {}
    return [
        *(existing(path, f"tokenizer/{name}") for name, path in found.items() if name not in made),
        *(written(f"tokenizer/{name}", data) for name, data in made.items()),
    ]


def copied_parts(source: Path) -> list[Part]:
    """Further files of a checkpoint that is packed as it is: how it is quantized, how images and sound are prepared,
    and its own code where config.json names some, which the server runs with `trust_remote_code` alone.
    """
    code = ("*.py",) if "auto_map" in read_config(source) else ()
    found = _matching(source, (*QUANTIZATIONS, "*processor_config.json", *code))
    return [existing(path, f"tokenizer/{path.name}") for path in found]


def with_text_config(parts: Sequence[Part], model: LocatedModel, architecture: str) -> list[Part]:
    """The parts of a tokenizer, with the config.json of the causal model `architecture` instead of the multimodal one
    where the artifact is of its text part.
    """
    if model.checkpoint.whole is None:
        return list(parts)
    own = {**model.checkpoint.config, "architectures": [architecture]}
    config = written("tokenizer/config.json", (json.dumps(own, indent=2, ensure_ascii=False) + "\n").encode())
    return [config if part.name == "config.json" else part for part in parts]


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    paths = (path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return sorted(set(paths))


def tokenizer_folder(parts: Sequence[Part]) -> Path | None:
    """Folder of the tokenizer that the parts were found in, for those who read it before it is packed; None without
    one.
    """
    texts = [part for part in parts if part.name not in CONFIGS]
    if vocabulary_of(part.name for part in texts) is None:
        return None
    return next((part.content.parent for part in texts if isinstance(part.content, Path)), None)


def vocabulary_digest(parts: Sequence[Part]) -> str:
    """Digest of the vocabulary among the parts, empty where there is none."""
    found = vocabulary_of(part.name for part in parts)
    return next((part.descriptor.digest for part in parts if found is not None and part.name == found.file), "")


def parts_of(entry: CacheEntry) -> list[Part]:
    """Every file of a cache entry, under its name there."""
    return [Part(replace(file, media_type=media_type(file.path)), entry.folder / file.path) for file in entry.files]
