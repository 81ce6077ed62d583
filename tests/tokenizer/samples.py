"""Tokenizers in the forms of published checkpoints, made here: byte-level BPE, sentencepiece models, ranks."""

from __future__ import annotations

import base64
import io
import json
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

CORPUS = ("the low tower is lower than the lowest tower of the town", "hello world, hello you", "Zürich and 日本") * 20
TEXTS = ("the lower town é", "", "a\n b", "日本 and 👩‍👩‍👧", "1234 (x)", "  two  blanks")
"""Texts on which tokenizers are compared: a letter outside of ASCII, nothing, a line's end, emoji, digits, blanks."""
EXTRA = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


@cache
def byte_level() -> str:
    """tokenizer.json of a byte-level BPE whose post-processor adds nothing; `<s>` 0, `</s>` 1, `<unk>` 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return str(made.to_str())


def with_bos(text: str) -> str:
    """tokenizer.json with a post-processor that begins every prompt with `<s>`."""
    from tokenizers import Tokenizer, processors

    made: Tokenizer = Tokenizer.from_str(text)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return str(made.to_str())


@cache
def sentencepiece_model(kind: str = "bpe") -> bytes:
    """A sentencepiece model of 340 pieces with byte fallback, as Llama's: `<unk>` 0, `<s>` 1, `</s>` 2."""
    from sentencepiece import SentencePieceTrainer

    out = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=out,
        model_type=kind,
        vocab_size=340,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return out.getvalue()


def ranks() -> list[bytes]:
    """Byte strings of `byte_level`'s vocabulary in the order of their ranks: single bytes, then merges."""
    from compiler.tokenizer.ranks import byte_characters

    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    model = json.loads(byte_level())["model"]
    joined = dict.fromkeys(a + b for a, b in model["merges"])
    return [bytes([i]) for i in range(256)] + [bytes(byte_of[c] for c in token) for token in joined]


def write_qwen(folder: Path) -> Path:
    """The tokenizer of Qwen 1: qwen.tiktoken, and a tokenizer_config.json that names its code."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(ranks()))
    (folder / "qwen.tiktoken").write_text("\n".join(lines) + "\n")
    own: dict[str, Any] = {
        "tokenizer_class": "QWenTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
    }
    write_config(folder, **own)
    (folder / "tokenization_qwen.py").write_text("raise SystemExit('code of a checkpoint was run')\n")
    return folder


def write_tekken(folder: Path) -> Path:
    """A tekken.json with 20 special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = ranks()
    vocab = [{"rank": i, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
             for i, token in enumerate([*tokens, b"beyond the size"])]  # fmt: skip
    config = {
        "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "num_vocab_tokens": len(vocab),
        "default_vocab_size": len(tokens) + 20,
        "default_num_special_tokens": 20,
        "version": "v3",
    }
    (folder / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocab}))
    return folder


def write_config(folder: Path, name: str = "tokenizer_config.json", **values: Any) -> None:
    """A JSON file of a tokenizer's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(values))


def joined(text: bytes, tokens: list[bytes]) -> list[int]:
    """Ranks of a piece of text by plain byte-pair encoding: the pair with the lowest rank is joined first."""
    known = {token: rank for rank, token in enumerate(tokens)}
    parts = [text] if text in known else [text[i : i + 1] for i in range(len(text))]
    while True:
        pairs = [(known[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in known]
        if not pairs:
            return [known[part] for part in parts]
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
