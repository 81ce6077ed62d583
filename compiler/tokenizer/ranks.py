"""Vocabularies of mergeable ranks: byte strings by rank, from which byte-pair encoding follows.

    qwen.tiktoken   a line each: base64 of the bytes, a blank, the rank          id = rank; special tokens follow
    tekken.json     {"config": ..., "vocab": [{"rank", "token_bytes"}], ...}     special tokens first; id = rank + count

Sources: `load_tiktoken_bpe` of tiktoken 0.14; expression and special tokens of tokenization_qwen.py of Qwen/Qwen-7B
(September 2023), read in a copy in QwenLM/Qwen-Agent; tekken.json and `Tekkenizer` of mistral-common 1.13.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compiler.tokenizer.settings import damaged, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import tokenizers

QWEN_EXPRESSION = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
TEKKEN_SPECIALS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
)  # fmt: skip
"""First special tokens of a tekken.json that does not list them; the others are `<SPECIAL_n>`."""


@dataclass(frozen=True)
class RankedVocabulary:
    """Byte strings of the regular vocabulary in the order of their ranks. `expression` splits a text; the first id of
    the special tokens is `specials_at`, of the others `at`. `bos`: id in front of every prompt. `compose`: normalize
    texts to NFC. `named`: special tokens by their keys in tokenizer_config.json.
    """

    tokens: Sequence[bytes]
    expression: str
    specials: Sequence[str]
    at: int
    specials_at: int
    bos: int | None = None
    compose: bool = False
    named: Mapping[str, str] = field(default_factory=dict)

    def backend(self) -> tokenizers.Tokenizer:
        """Tokenizer of the library, with one merge for each way to join two tokens to a third, by rank."""
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

        names = byte_characters()
        texts = ["".join(names[byte] for byte in token) for token in self.tokens]
        made = Tokenizer(
            models.BPE(
                vocab={
                    **{text: self.at + i for i, text in enumerate(texts)},
                    **{text: self.specials_at + i for i, text in enumerate(self.specials)},
                },
                merges=_merges(texts),
                ignore_merges=True,
            )
        )
        made.normalizer = normalizers.NFC() if self.compose else normalizers.Sequence([])
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(self.expression), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in self.specials])
        if self.bos is not None:
            name = self.specials[self.bos - self.specials_at]
            made.post_processor = processors.TemplateProcessing(single=f"{name} $A", special_tokens=[(name, self.bos)])
        return made


def read_ranks(path: Path) -> RankedVocabulary:
    """Vocabulary in tekken.json or a .tiktoken file. Raises TokenizerError."""
    return _tekken(path) if path.suffix == ".json" else _qwen(path)


def _qwen(path: Path) -> RankedVocabulary:
    tokens: list[bytes] = []
    try:
        for number, line in enumerate(path.read_bytes().splitlines()):
            text, rank = line.split()
            if int(rank) != number:
                raise ValueError(f"line {number + 1} has rank {int(rank)}")  # one error for all lines
            tokens.append(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error) as error:
        raise damaged(path, f"expected lines of a token in base64 and its rank: {error}") from None
    return RankedVocabulary(
        tokens,
        QWEN_EXPRESSION,
        QWEN_SPECIALS,
        at=0,
        specials_at=len(tokens),
        compose=True,
        named={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    )


def _tekken(path: Path) -> RankedVocabulary:
    found = read_object(path)
    try:
        config: dict[str, Any] = found["config"]
        count = int(config["default_num_special_tokens"])
        size = int(config["default_vocab_size"]) - count
        tokens = [base64.b64decode(token["token_bytes"]) for token in found["vocab"][:size]]
        listed = {int(token["rank"]): str(token["token_str"]) for token in found.get("special_tokens") or ()}
        expression = str(config["pattern"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"expected `config` and `vocab` of a tekken.json: {error!r}") from None
    names = listed or dict(enumerate(TEKKEN_SPECIALS))
    specials = [names.get(i, f"<SPECIAL_{i}>") for i in range(count)]
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return RankedVocabulary(
        tokens,
        expression,
        specials,
        at=count,
        specials_at=0,
        bos=specials.index("<s>") if "<s>" in specials else None,
        named={key: text for key, text in named.items() if text in specials},
    )


def _merges(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of tokens that join to a token, in the order of the joined token's rank, then of its parts' ranks."""
    ranks = {text: rank for rank, text in enumerate(texts)}
    merges: list[tuple[str, str]] = []
    for text in texts:
        pairs = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in ranks and text[i:] in ranks]
        merges += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def byte_characters() -> list[str]:
    """Printable character that byte-level BPE writes for each byte, in the order of the bytes.

    Printable Latin-1 bytes stand for themselves, the others for the characters from U+0100 on. Source: encoder.py of
    GPT-2.
    """
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = {byte: 0x100 + i for i, byte in enumerate(b for b in range(256) if b not in plain)}
    return [chr(moved.get(byte, byte)) for byte in range(256)]
