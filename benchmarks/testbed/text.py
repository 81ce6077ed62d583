"""Text that every Python installation carries, and byte-level BPE tokenizers for tiny checkpoints."""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
HELD_OUT = 25
"""Interval of held-out paragraphs, which are never trained on."""


@cache
def paragraphs() -> tuple[str, ...]:
    """Prose paragraphs of Python's language reference and of the standard library's docstrings.

    About a million characters in some 8,000 paragraphs, each one line, without repeats; they and their order depend on
    the Python version only.
    """
    from pydoc_data.topics import topics

    return _prose([*(topics[name] for name in sorted(topics)), *_docstrings()])


@cache
def docstrings() -> tuple[str, ...]:
    """The `paragraphs` that are from docstrings."""
    from pydoc_data.topics import topics

    reference = set(_prose(topics.values()))
    return tuple(piece for piece in _prose(_docstrings()) if piece not in reference)


def _prose(texts: Iterable[str]) -> tuple[str, ...]:
    pieces = (" ".join(piece.split()) for text in texts for piece in re.split(r"\n\s*\n", text))
    return tuple(dict.fromkeys(piece for piece in pieces if _is_prose(piece)))


def _docstrings() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    foreign = {"site-packages", "dist-packages", "test", "tests"}
    for path in sorted([*library.glob("*.py"), *library.glob("*/*.py")]):
        if path.parent.name in foreign:
            continue
        with warnings.catch_warnings():
            # Parsing warns of other people's invalid escapes.
            warnings.simplefilter("ignore")
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def _is_prose(text: str) -> bool:
    if not 40 <= len(text) <= 600 or not text[0].isupper() or not text.endswith("."):
        return False
    return sum(c.isalpha() or c == " " for c in text) >= 0.88 * len(text)


def byte_tokenizer() -> Tokenizer:
    """Tokenizer with one token per byte (id = value of the byte), then `<s>` 256, `</s>` 257 and `<pad>` 258."""
    from tokenizers import Tokenizer, models

    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    return _with_bytes(Tokenizer(models.BPE(vocab=vocabulary, merges=[])))


def train_tokenizer(documents: Sequence[str], size: int) -> Tokenizer:
    """Train a byte-level BPE of `size` tokens on `documents`; the three special tokens come last."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # The expression ends no token with a space, so that a prompt without trailing space meets known tokens.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size - 3,
        initial_alphabet=_byte_characters(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return _with_bytes(tokenizer)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json in the form of a Hugging Face checkpoint."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def _with_bytes(tokenizer: Tokenizer) -> Tokenizer:
    from tokenizers import AddedToken, decoders, pre_tokenizers, processors

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in (BOS, EOS, PAD)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def _byte_characters() -> list[str]:
    """Printable character that byte-level BPE writes for each byte, in the order of the bytes.

    GPT-2's table: printable Latin-1 bytes stand for themselves, the others for the characters from U+0100 on.
    """
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = {byte: 0x100 + i for i, byte in enumerate(b for b in range(256) if b not in plain)}
    return [chr(moved.get(byte, byte)) for byte in range(256)]
