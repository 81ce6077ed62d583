"""The tokenizer of an artifact, and the ids that end an answer.

Reads tokenizer.json with the `tokenizers` library. transformers, which takes seconds to import, converts only formats
without such a file; code in a checkpoint is never run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import ArtifactError, TokenizerError, UsageError

if TYPE_CHECKING:
    import tokenizers

_CHARACTERS_PER_TOKEN = 16
"""Length of the first beginning that is tried, per token: hardly any text has longer tokens on average."""
_CUT = 16
"""Tokens that a cut in the middle of a word may add."""
_OLDER_FORMATS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


class Tokenizer:
    """Wrapper of a `tokenizers.Tokenizer`. Special tokens are those of its table of added tokens."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._special = {i: t.content for i, t in backend.get_added_tokens_decoder().items() if t.special}

    def encode(self, text: str, *, special: bool = True, most: int | None = None) -> list[int]:
        """Encode a prompt to ids; `special`: with the special tokens that the model expects around it.

        `most`: number of tokens that are enough to refuse the text. If it has more, the result may be that of its
        beginning, more than `most` ids, so that the work is bounded for every text. Other threads run meanwhile.

        Raises:
            UsageError: the text has half of a surrogate pair, which no encoding has.
        """
        length = (most or 0) * _CHARACTERS_PER_TOKEN
        while most is not None and len(text) > length:
            ids = self._ids(text[:length], special)
            if len(ids) > most + _CUT:
                return ids
            length *= 4
        return self._ids(text, special)

    def _ids(self, text: str, special: bool) -> list[int]:
        try:
            # `encode` holds the interpreter's lock, `encode_batch_fast` does not.
            (encoded,) = self._backend.encode_batch_fast([text], add_special_tokens=special)
        except TypeError:
            raise UsageError(
                "expected text that UTF-8 can encode; found half of a surrogate pair",
                hint="send characters outside the basic plane as one pair, such as \\ud83d\\ude00",
            ) from None
        return list(encoded.ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text, without special tokens; invalid UTF-8 becomes U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def special(self, token: int) -> str | None:
        """Name of a special token; None for any other token."""
        return self._special.get(token)


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """Load the tokenizer in `folder`; None if it has none.

    Raises TokenizerError (damaged, or unreadable without code from its checkpoint).
    """
    if (folder / "tokenizer.json").exists():
        return Tokenizer(_read(folder / "tokenizer.json"))
    if not any((folder / name).exists() for name in _OLDER_FORMATS):
        return None
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).backend_tokenizer
    except (AttributeError, OSError, ValueError) as error:
        raise TokenizerError(
            f"{folder}: expected tokenizer.json, or a format that transformers can turn into one: {error}",
            hint="build the artifact with `--tokenizer DIR`, a folder with a tokenizer.json",
        ) from error
    return Tokenizer(backend)


def _read(path: Path) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the Rust side raises plain Exception
        raise TokenizerError(
            f"{path} cannot be read by tokenizers {tokenizers.__version__}: {error}",
            hint="upgrade `tokenizers`, or build the artifact with another tokenizer, `--tokenizer DIR`",
        ) from None


def end_ids(folder: Path) -> frozenset[int]:
    """Ids that end an answer: `eos_token_id` of generation_config.json, else of config.json; a number or a list."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            found: Any = json.loads(path.read_bytes()).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise ArtifactError(
                f"{path}: expected a JSON object: {error}", hint="copy or build the artifact again"
            ) from error
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()
