"""Load the tokenizer of a folder. Code in a checkpoint is never run.

tokenizer.json is read with the `tokenizers` library, a sentencepiece model with `sentencepiece`, mergeable ranks with
ranks.py. transformers, which takes seconds to import, converts only the formats without such a file.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from compiler.errors import TokenizerError
from compiler.storage.checkpoints.lfs import is_pointer_file
from compiler.tokenizer.edges import sentencepiece_edges
from compiler.tokenizer.ranks import read_ranks
from compiler.tokenizer.settings import ExtraToken, damaged, read_object, read_settings
from compiler.tokenizer.tokenizer import FastTokenizer, SentencePieceTokenizer, Tokenizer
from compiler.tokenizer.vocabulary import GENERIC, Vocabulary, vocabulary_names, vocabulary_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import tokenizers

    from compiler.tokenizer.settings import TokenizerSettings


def vocabulary_in(folder: Path) -> Vocabulary | None:
    """Vocabulary that the tokenizer of `folder` is loaded from; None if it has none."""
    return vocabulary_of(path.name for path in folder.iterdir() if path.is_file())


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """Load the tokenizer in `folder`; None if it has none.

    Raises TokenizerError (damaged, a git-lfs pointer, or unreadable without code from its checkpoint).
    """
    found = vocabulary_in(folder)
    if found is None:
        return None
    for name in found.files:
        if is_pointer_file(folder / name):
            raise damaged(folder / name, "")
    settings = read_settings(folder)
    if found.reader == "sentencepiece":
        return _sentencepiece(folder / found.file, settings)
    return FastTokenizer(*_with_extra(backend_of(folder, found, settings), settings))


def backend_of(folder: Path, found: Vocabulary, settings: TokenizerSettings) -> tokenizers.Tokenizer:
    """Tokenizer of the `tokenizers` library for a vocabulary that is no sentencepiece model. Raises TokenizerError."""
    if found.reader == "tokenizers":
        return _tokenizers(folder / found.file)
    if found.reader == "ranks":
        from tokenizers import Tokenizer

        return Tokenizer.from_str(_rank_text(folder / found.file))
    from transformers import AutoTokenizer

    try:
        made: tokenizers.Tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).backend_tokenizer
    except Exception as error:  # whatever transformers raises for files that it cannot read
        raise _unreadable(folder / found.file, f"transformers cannot read it: {_first(error)}", settings) from error
    return made


def converted(folder: Path, found: Vocabulary) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json with the same ids as a vocabulary of mergeable ranks, by name.

    Raises TokenizerError.
    """
    config = read_object(folder / "tokenizer_config.json")
    config.pop("auto_map", None)
    config["tokenizer_class"] = GENERIC
    for key, text in read_ranks(folder / found.file).named.items():
        config.setdefault(key, text)
    return {
        "tokenizer.json": _rank_text(folder / found.file).encode(),
        "tokenizer_config.json": (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
    }


def _rank_text(path: Path) -> str:
    found = path.stat()
    return _rank_json(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1)
def _rank_json(path: Path, _size: int, _time: int) -> str:
    """Text of the tokenizer.json of a vocabulary: its merges take seconds to make, and a build reads it three times."""
    return read_ranks(path).backend().to_str()


def _tokenizers(path: Path) -> tokenizers.Tokenizer:
    import tokenizers

    data = path.read_bytes()
    try:
        return tokenizers.Tokenizer.from_str(data.decode(json.detect_encoding(data)))
    except Exception as error:  # noqa: BLE001  # the Rust side raises plain Exception
        raise TokenizerError(
            f"{path} cannot be read by tokenizers {tokenizers.__version__}: {error}",
            hint="download it again, upgrade `tokenizers`, or pass another tokenizer with `--tokenizer DIR`",
        ) from None


def _with_extra(backend: tokenizers.Tokenizer, settings: TokenizerSettings) -> tuple[tokenizers.Tokenizer, list[str]]:
    """Add the tokens of the settings that tokenizer.json lacks, as transformers does, and list those whose id differs
    from the one in the settings.
    """
    from tokenizers import AddedToken

    notes = []
    for token in settings.extra:
        known = {added.content: added for added in backend.get_added_tokens_decoder().values()}
        if token.content not in known:
            flags = {name: getattr(token, name) for name in ("lstrip", "rstrip", "normalized", "single_word")}
            made = AddedToken(token.content, special=token.special, **flags)
            (backend.add_special_tokens if token.special else backend.add_tokens)([made])
        got = backend.token_to_id(token.content)
        if token.id is not None and got != token.id:
            notes.append(f"`{token.content}` has the id {got}; tokenizer_config.json says {token.id}")
    return backend, notes


def _sentencepiece(path: Path, settings: TokenizerSettings) -> SentencePieceTokenizer:
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_proto=path.read_bytes())
        size = int(model.get_piece_size())
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(path, f"expected a sentencepiece model: {_first(error)}", settings) from None
    if not size:
        raise _unreadable(path, "expected a sentencepiece model; found one without pieces", settings)
    ends = {"bos_token": model.bos_id(), "eos_token": model.eos_id(), "unk_token": model.unk_id()}
    own = [ExtraToken(model.id_to_piece(i), i, special=True) for i in ends.values() if i >= 0]
    extra, notes = _extra_ids(model, size, [*own, *settings.extra])
    ids = {token.content: i for i, token in extra.items()}

    def named(key: str) -> list[int]:
        text = settings.token(key)
        found = ids.get(text) if text is not None else ends[key]
        return [found] if found is not None and found >= 0 else []

    edges = sentencepiece_edges(settings)
    return SentencePieceTokenizer(
        model,
        extra,
        before=named("bos_token") if edges.bos else [],
        after=named("eos_token") if edges.eos else [],
        legacy=settings.legacy,
        notes=notes,
    )


def _extra_ids(model: Any, size: int, tokens: Sequence[ExtraToken]) -> tuple[dict[int, ExtraToken], list[str]]:
    """Extra tokens by id: the id in the settings, that of the piece of this name, or the next free one."""
    found: dict[int, ExtraToken] = {}
    contents: dict[str, int] = {}
    notes = []
    for token in tokens:
        piece = int(model.piece_to_id(token.content))
        known = piece if model.id_to_piece(piece) == token.content else None
        free = max([size - 1, *found]) + 1
        place = token.id if token.id is not None else contents.get(token.content, known if known is not None else free)
        if known is not None and known != place:
            notes.append(f"`{token.content}` has the id {known} in the vocabulary; tokenizer_config.json says {place}")
        if token.content not in contents or token.id is not None:
            found[place] = token
            contents[token.content] = place
    return found, notes


def _unreadable(path: Path, text: str, settings: TokenizerSettings) -> TokenizerError:
    """Error for a vocabulary that is not read; it names the checkpoint's own code, where that alone reads it."""
    if not settings.code:
        return damaged(path, text)
    return TokenizerError(
        f"{path}: {text}; its tokenizer is code, `{settings.name or 'a class'}` in {settings.code}, which is never run",
        hint="save the tokenizer as a tokenizer.json (`save_pretrained` of a fast tokenizer) and pass its folder with "
        f"`--tokenizer DIR`; vocabularies that are read: {vocabulary_names()}",
    )


def _first(error: Exception) -> str:
    """First line of an error of another package, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
