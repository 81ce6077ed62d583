"""The artifact's tokenizer: text to ids and back, and which ids end an answer.

Uses the `tokenizers` library on tokenizer.json directly. transformers, which takes seconds to import, is asked only for
formats that have no such file; code that a checkpoint brings is never run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import ArtifactError, TokenizerError

if TYPE_CHECKING:
    import tokenizers

_OLDER_FORMATS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


class Tokenizer:
    """Wraps a `tokenizers.Tokenizer`; ids of special tokens are known by its table of added tokens."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._special = {i: t.content for i, t in backend.get_added_tokens_decoder().items() if t.special}

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt, with the special tokens that the model expects around it."""
        return list(self._backend.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out; bytes that are no text come out as U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def special(self, token: int) -> str | None:
        """The name of a special token, None for any other."""
        return self._special.get(token)


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in `folder`, None where it has none.

    Raises:
        TokenizerError: there is one, but it cannot be read without code from its checkpoint, or is damaged.
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
            hint="Build the artifact with `--tokenizer DIR`, a folder that has a tokenizer.json.",
        ) from error
    return Tokenizer(backend)


def _read(path: Path) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the Rust side raises plain Exception
        raise TokenizerError(
            f"{path} cannot be read by tokenizers {tokenizers.__version__}: {error}",
            hint="A newer file needs a newer `tokenizers`; another tokenizer is built in with `--tokenizer DIR`.",
        ) from None


def end_ids(folder: Path) -> frozenset[int]:
    """The ids that end an answer: `eos_token_id` of generation_config.json, else of config.json; a number or a list."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            found: Any = json.loads(path.read_bytes()).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise ArtifactError(f"{path}: expected a JSON object: {error}") from error
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()
