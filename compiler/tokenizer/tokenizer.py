"""The two kinds of tokenizers: over the `tokenizers` library, and over a sentencepiece model."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import tokenizers
    from sentencepiece import SentencePieceProcessor

    from compiler.tokenizer.settings import ExtraToken


class Tokenizer(Protocol):
    """Tokenizer of a model. `regular`: number of ids of the regular vocabulary, the largest one plus 1; `extra`: tokens
    beside it by id, the special ones among them; `notes`: findings of the loader, one line each.
    """

    @property
    def regular(self) -> int: ...
    @property
    def extra(self) -> Mapping[int, str]: ...
    @property
    def notes(self) -> Sequence[str]: ...
    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Encode a prompt to ids; `special`: with the special tokens that the model expects around it."""

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text, without special tokens; invalid UTF-8 becomes U+FFFD."""

    def special(self, token: int) -> str | None:
        """Name of a special token; None for any other token."""


class FastTokenizer:
    """Wrapper of a `tokenizers.Tokenizer`. Special tokens are those of its table of added tokens."""

    def __init__(self, backend: tokenizers.Tokenizer, notes: Sequence[str] = ()) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._special = {i: token.content for i, token in added.items() if token.special}
        self.extra: Mapping[int, str] = {i: token.content for i, token in added.items()}
        self.notes = tuple(notes)

    @property
    def regular(self) -> int:
        ids = (i for i in self._backend.get_vocab(with_added_tokens=False).values() if i not in self.extra)
        return max(ids, default=-1) + 1

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Encode a prompt to ids; `special`: with the special tokens that the model expects around it."""
        # `encode` holds the interpreter's lock, `encode_batch_fast` does not.
        (encoded,) = self._backend.encode_batch_fast([text], add_special_tokens=special)
        return list(encoded.ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text, without special tokens; invalid UTF-8 becomes U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def special(self, token: int) -> str | None:
        """Name of a special token; None for any other token."""
        return self._special.get(token)


class SentencePieceTokenizer:
    """Tokenizer over a sentencepiece model, as transformers' `LlamaTokenizer` (slow) uses one.

    Text between extra tokens is encoded by the model piece by piece. With `legacy` each stretch begins with the blank
    that the model puts in front of a text; without, only the first does: the others are encoded behind the unknown
    token, whose pieces are dropped. Source: tokenization_llama.py of transformers 4.53.
    """

    def __init__(
        self,
        model: SentencePieceProcessor,
        extra: Mapping[int, ExtraToken],
        *,
        before: Sequence[int],
        after: Sequence[int],
        legacy: bool,
        notes: Sequence[str] = (),
    ) -> None:
        self._model, self._before, self._after, self._legacy = model, list(before), list(after), legacy
        self._ids = {token.content: i for i, token in extra.items()}
        self._special = {i: token.content for i, token in extra.items() if token.special}
        self.extra: Mapping[int, str] = {i: token.content for i, token in extra.items()}
        self.notes = tuple(notes)
        ordered = sorted(extra.values(), key=lambda token: -len(token.content))
        self._pattern = re.compile("|".join(_pattern(token) for token in ordered)) if ordered else None
        self._unknown = model.id_to_piece(model.unk_id())
        self._lead = len(model.encode(self._unknown))

    @property
    def regular(self) -> int:
        return int(self._model.get_piece_size())

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Encode a prompt to ids; `special`: with the special tokens that the model expects around it."""
        ids, at = list(self._before) if special else [], 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            ids += [*self._stretch(text[at : match.start()], first=at == 0), self._ids[_named(match)]]
            at = match.end()
        return [*ids, *self._stretch(text[at:], first=at == 0), *(self._after if special else ())]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text, without special tokens; invalid UTF-8 becomes U+FFFD."""
        parts = []
        known = (i for i in ids if i not in self._special and (i in self.extra or 0 <= i < self.regular))
        for extra, group in groupby(known, key=lambda i: i in self.extra):
            run = list(group)
            parts += [self.extra[i] for i in run] if extra else [str(self._model.decode(run))]
        return "".join(parts)

    def special(self, token: int) -> str | None:
        """Name of a special token; None for any other token."""
        return self._special.get(token)

    def _stretch(self, text: str, *, first: bool) -> list[int]:
        if not text:
            return []
        if first or self._legacy:
            return list(self._model.encode(text))
        return list(self._model.encode(self._unknown + text))[self._lead :]


def _pattern(token: ExtraToken) -> str:
    before, after = r"\s*" if token.lstrip else "", r"\s*" if token.rstrip else ""
    return f"{before}({re.escape(token.content)}){after}"


def _named(match: re.Match[str]) -> str:
    """Content of the extra token that matched, without the blanks around it."""
    return str(match[match.lastindex or 0])
