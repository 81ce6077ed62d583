"""Token ids for calibration: from a text, from rows of a table, or from the built-in text.

.jsonl .json .csv .parquet ...   rows with `text` or `input_ids` (storage/datasets/rows.py): one sample each, truncated
any other                        one text in UTF-8, tokenized as a whole and cut into samples
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import CalibrationError, TokenizerError
from compiler.storage.datasets.dataset import dataset_file, is_dataset
from compiler.storage.datasets.rows import is_compressed, is_table, rows
from compiler.storage.files.digest import Digest, digest_bytes, sha256_file
from compiler.tokenizer.load import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from compiler.quantization.request import Text
    from compiler.tokenizer.tokenizer import Tokenizer

    Ids = NDArray[np.int64]

CALIBRATION, HELD_OUT = "calibration.txt", "held_out.txt"
"""Texts written for this project; the gate measures quantized models on the second."""
SAMPLES, LENGTH = 512, 512
LEAST_TOKENS = 64
"""Fewest tokens in all samples together; fewer are taken for a mistake."""
_BYTES_PER_TOKEN = 8
"""Bytes of text to read for a token; tokenizers of large vocabularies have four to five."""
_SHORTEST = 8
"""Fewest tokens of a sample; shorter ones are skipped."""


@dataclass(frozen=True)
class Samples:
    """Samples. `ids`: int64 [tokens] for each; `text`: digest of the file; `name`: of the file."""

    ids: tuple[Ids, ...]
    name: str
    text: Digest

    @property
    def tokens(self) -> int:
        return sum(one.size for one in self.ids)

    def within(self, begin: int, end: int) -> Samples:
        """Samples whose first token is among the tokens from `begin` to `end` of all."""
        starts = np.cumsum([0, *(one.size for one in self.ids)])[:-1]
        return replace(self, ids=tuple(ids for at, ids in zip(starts, self.ids, strict=True) if begin <= at < end))

    def first(self, lengths: Sequence[int]) -> Samples:
        """The first samples, each cut to its length in `lengths`."""
        return replace(self, ids=tuple(ids[:length] for ids, length in zip(self.ids, lengths, strict=False)))

    @property
    def digest(self) -> Digest:
        """Digest of the token ids, part of cache keys."""
        return digest_bytes(b"".join(one.size.to_bytes(8, "little") + one.tobytes() for one in self.ids))


def read_samples(
    file: Path | None,
    tokenizer: Path | None,
    *,
    vocab: int,
    count: int = SAMPLES,
    length: int = LENGTH,
    own: str = CALIBRATION,
    name: str = "",
) -> Samples:
    """Read at most `count` samples of at most `length` tokens. `file` None: the built-in text `own`.

    `tokenizer`: its folder, not needed for `input_ids`. `vocab`: rows of the model's embedding; `length`: at most
    its positions. `name`: of the text ("": that of the file).
    Raises CalibrationError (missing, empty, too short, not JSON, ids outside the vocabulary), TokenizerError.
    """
    name = name or (file.name if file else f"built-in {own}")
    ids: list[Ids] = []
    if file and is_table(file):
        digest = _digest(file)
        for where, one in _rows(file, name, tokenizer):
            _check_ids(one, vocab, where)
            if one.size >= _SHORTEST:
                ids.append(one[:length])
            if len(ids) == count:
                break
    else:
        data = _bytes(file) if file else built_in_text(own) if own != HELD_OUT else held_out_text(count * length)
        digest = digest_bytes(data)
        whole = _encode(_tokenizer(tokenizer), _text(data, name))
        _check_ids(whole, vocab, name)
        pieces = [whole[i : i + length] for i in range(0, min(whole.size, count * length), length)]
        ids += [piece for piece in pieces if piece.size >= _SHORTEST]
    samples = Samples(tuple(ids), name, digest)
    if samples.tokens < LEAST_TOKENS:
        raise CalibrationError(
            f"the calibration text `{name}` gives {samples.tokens} tokens in samples of {_SHORTEST} or more; expected "
            f"{LEAST_TOKENS} at least",
            hint="use a text like the model's requests, some thousand tokens long, or leave `--calibration` out for "
            "the built-in text",
        )
    return samples


def resolve_text(text: Text) -> Text:
    """Set file, name, digest and size of a text; download a data set. Raises CalibrationError."""
    file, name = text.file, ""
    if file is None:
        data = built_in_text(CALIBRATION)
        return replace(text, digest=digest_bytes(data), size=len(data))
    if not file.exists() and is_dataset(str(file)):
        name, file = dataset_file(str(file))
    digest = _digest(file)
    size = None if is_table(file) and is_compressed(file) else file.stat().st_size
    return replace(text, file=file, name=name, digest=digest, size=size)


def random_samples(vocab: int, count: int, length: int) -> Samples:
    """Repeatable token ids, for models without a tokenizer."""
    ids = np.random.default_rng(0).integers(0, vocab, (count, length), np.int64)
    return Samples(tuple(ids), "random token ids", digest_bytes(ids.tobytes()))


def _rows(file: Path, name: str, tokenizer: Path | None) -> Iterator[tuple[str, Ids]]:
    """Location (for errors) and ids of every row. Rows whose text is null are skipped."""
    opened: Tokenizer | None = None
    for where, row in rows(file, name, ("text", "input_ids")):
        known = row if isinstance(row, dict) else {}
        if isinstance(known.get("text"), str):
            opened = opened or _tokenizer(tokenizer)
            yield where, _encode(opened, known["text"])
        elif _are_integers(known.get("input_ids")):
            yield where, np.array([min(max(i, -1), 1 << 62) for i in known["input_ids"]], np.int64)
        elif not ({"text", "input_ids"} & known.keys()) or any(known.get(one) for one in ("text", "input_ids")):
            found = f"columns {', '.join(map(str, known))}" if known else repr(row)[:60]
            raise CalibrationError(
                f"{where}: expected `text` (a string) or `input_ids` (integers), found {found}",
                hint='save it as a .jsonl file, one object per line: {"text": "..."} or {"input_ids": [1, 2, 3]}',
            )


def _are_integers(value: Any) -> bool:
    return isinstance(value, list) and all(type(i) is int for i in value)


def _check_ids(ids: Ids, vocab: int, where: str) -> None:
    wrong = ids[(ids < 0) | (ids >= vocab)]
    if wrong.size:
        raise CalibrationError(
            f"{where} has the token id {wrong[0]}; the model has ids 0 to {vocab - 1}",
            hint="use the tokenizer (or the ids) of this model",
        )


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from None


def _digest(file: Path) -> Digest:
    try:
        return sha256_file(file)
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> CalibrationError:
    return CalibrationError(
        f"`--calibration {file}` cannot be read: {error.strerror}", hint="pass a text, a table or the id of a data set"
    )


def built_in_text(name: str) -> bytes:
    """Bytes of the text CALIBRATION or HELD_OUT, in UTF-8."""
    return resources.files("compiler.calibration").joinpath(name).read_bytes()


def held_out_text(tokens: int) -> bytes:
    """Text to judge quantized models on, long enough for `tokens` tokens: the built-in HELD_OUT, and behind it the
    documentation that this Python carries (`pydoc_data.topics`), where that is installed.
    """
    own = built_in_text(HELD_OUT)
    most = _BYTES_PER_TOKEN * tokens
    if len(own) >= most:
        return own
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return own
    more = "\n\n".join(topics[name].strip() for name in sorted(topics))[: most - len(own)]
    return own + b"\n\n" + more.encode()


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CalibrationError(f"`{name}` is not UTF-8: {error}", hint="convert it to UTF-8, or pass another") from None


def _tokenizer(folder: Path | None) -> Tokenizer:
    found = load_tokenizer(folder) if folder is not None else None
    if found is None:
        raise TokenizerError(
            "calibration with text needs the model's tokenizer; found none",
            hint="pass `--tokenizer DIR`, or calibrate with a .jsonl file of `input_ids`",
        )
    return found


def _encode(tokenizer: Tokenizer, text: str) -> Ids:
    return np.array(tokenizer.encode(text), np.int64)
