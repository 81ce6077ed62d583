"""File that holds a tokenizer's vocabulary, among the files of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Reader = Literal["tokenizers", "sentencepiece", "ranks", "transformers"]
"""Program that reads a vocabulary; `ranks`: this package's own reader (ranks.py)."""


GENERIC = "PreTrainedTokenizerFast"
"""Class of transformers that reads any tokenizer.json as it is."""


@dataclass(frozen=True)
class Vocabulary:
    """Files that hold a vocabulary together, the first of them by name the one that is read."""

    files: tuple[str, ...]
    reader: Reader

    @property
    def file(self) -> str:
        return self.files[0]


VOCABULARIES = (
    Vocabulary(("tokenizer.json",), "tokenizers"),
    Vocabulary(("tokenizer.model",), "sentencepiece"),
    Vocabulary(("spiece.model",), "sentencepiece"),
    Vocabulary(("sentencepiece.bpe.model",), "sentencepiece"),
    Vocabulary(("tekken.json",), "ranks"),
    Vocabulary(("qwen.tiktoken",), "ranks"),
    Vocabulary(("vocab.json", "merges.txt"), "transformers"),
    Vocabulary(("vocab.txt",), "transformers"),
)
"""All vocabularies that are read, the preferred one first."""


def vocabulary_of(names: Iterable[str]) -> Vocabulary | None:
    """Preferred vocabulary among the files `names`; None without one."""
    has = set(names)
    return next((one for one in VOCABULARIES if has.issuperset(one.files)), None)


def vocabulary_names() -> str:
    """Text of the vocabularies that are read: `tokenizer.json, ..., vocab.json with merges.txt`."""
    return ", ".join(" with ".join(one.files) for one in VOCABULARIES)
