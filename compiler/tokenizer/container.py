"""Files of a tokenizer in the form that an older transformers reads, with the same ids.

    tokenizer.json          merges as pairs            text: tokenizers before 0.20 (transformers 4.45) has no pairs
    tokenizer_config.json   class of transformers 5,   `PreTrainedTokenizerFast`, which reads tokenizer.json as it is
                            or of the checkpoint's code
                            extra_special_tokens       additional_special_tokens: transformers 4 takes no list there
    both                    a byte order mark, UTF-16  UTF-8

Found by loading such files with transformers 4.34.0, 4.38.1, 4.44.2, 4.51.3 and 4.53.3, on 2026-11-29.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compiler.errors import TokenizerError
from compiler.tokenizer.edges import CLASSES, Release
from compiler.tokenizer.vocabulary import GENERIC, vocabulary_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FORMS = ("tokenizer.json", "tokenizer_config.json")
"""Files that have another form in older releases."""
FIRST_WITH_PAIRS: Release = (4, 45)
_SINCE: Mapping[str, Release] = {
    "TokenizersBackend": (5, 0),
    "SentencePieceBackend": (5, 0),
    "PythonBackend": (5, 0),
    "MistralCommonBackend": (5, 0),
    "MistralCommonTokenizer": (4, 54),
    "Qwen2Tokenizer": (4, 37),
    **{one.name: one.since for one in CLASSES if one.name in {"GemmaTokenizer", "CohereTokenizer"}},
}
"""First release with a class, without the suffix `Fast`; others are older than every container."""


def release_of(version: str) -> Release:
    """Release of a version: (4, 44) for `4.44.2`."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def container_form(files: Mapping[str, bytes], version: str) -> dict[str, bytes]:
    """Files of `files`, by name, that `version` of transformers cannot read as they are, in a form that it reads.

    Raises TokenizerError where there is none.
    """
    release = release_of(version)
    if release >= (5, 0):
        return {}
    forms: dict[str, Callable[[dict[str, Any]], None]] = {
        "tokenizer.json": lambda found: _merges(found, version),
        "tokenizer_config.json": lambda found: _config(found, files, version),
    }
    made = {}
    for name, rewrite in forms.items():
        if name not in files:
            continue
        found = json.loads(files[name])
        before = json.dumps(found)
        rewrite(found)
        if json.dumps(found) != before or files[name][:1] not in (b"{", b" ", b"\n"):
            made[name] = (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode()
    return made


def _merges(found: dict[str, Any], version: str) -> None:
    model = found.get("model") or {}
    merges = model.get("merges") or []
    if release_of(version) >= FIRST_WITH_PAIRS or not any(isinstance(pair, list) for pair in merges):
        return
    if any(" " in part for pair in merges for part in pair):
        raise TokenizerError(
            f"the image has transformers {version}, which cannot read the merges of tokenizer.json: some have blanks",
            hint="choose a newer `--image`, or pass one saved by transformers before 4.45 with `--tokenizer DIR`",
        )
    model["merges"] = [" ".join(pair) for pair in merges]


def _config(found: dict[str, Any], files: Mapping[str, bytes], version: str) -> None:
    name, code = str(found.get("tokenizer_class") or ""), "auto_map" in found
    known = any(one.name == name.removesuffix("Fast") for one in CLASSES)
    unknown = release_of(version) < _SINCE.get(name.removesuffix("Fast"), (4, 0))
    if unknown or (code and not known):
        vocabulary = vocabulary_of(files)
        if "tokenizer.json" not in files:
            raise TokenizerError(
                f"the image has transformers {version} and runs no code of a checkpoint: it cannot read "
                f"{vocabulary.file if vocabulary else 'the tokenizer'} without the class `{name}`",
                hint="save the tokenizer as a tokenizer.json (`save_pretrained` of a fast tokenizer), and pass its "
                "folder with `--tokenizer DIR`",
            )
        found["tokenizer_class"] = GENERIC
    found.pop("auto_map", None)
    if isinstance(found.get("extra_special_tokens"), list):
        found["additional_special_tokens"] = [
            *(found.get("additional_special_tokens") or []),
            *found.pop("extra_special_tokens"),
        ]
