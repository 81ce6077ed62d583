"""Token ids that a proof runs, the reference logits at some of their positions, and the file that has both.

reference.safetensors    token_ids int64 [tokens]            rows one after the other
                         rows int64 [rows]                   their token counts; absent in older files: one row
                         positions int64 [compared]          indices into token_ids; absent in older files: all
                         logits float32 [compared, vocab]
                         lowered.token_ids, ...              the same of the model with lowered limits (`proof.py`)
                         floor float64 [figures]             of a correct computation in the artifact's dtype
                                                             (`compare.Figures`), where it was measured
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.calibration.samples import HELD_OUT, built_in_text
from compiler.errors import ArtifactError
from compiler.numerics.compare import Figures
from compiler.numerics.proof import compared
from compiler.tokenizer.load import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from compiler.numerics.proof import Proof

    Ids = NDArray[np.int64]
    Logits = NDArray[np.float32]

REFERENCE = "reference.safetensors"
TEXT = (
    "The harbour was quiet when the ferry came in. Maria counted 17 crates on the pier, signed the paper, "
    "and asked whether the letter from Zürich had arrived. Nobody knew; the clerk shrugged and said: come "
    "back at half past ten."
)
"""Begin of the text, written for this project; letters, digits, punctuation and one character outside ASCII."""
_LOWERED, _FLOOR = "lowered.", "floor"


@dataclass(frozen=True, eq=False)
class Passage:
    """Rows that run together. `rows`: ids [tokens] of each; `compared`: positions [compared] in each, ascending;
    `logits`: float32 [compared, vocab] of each.
    """

    rows: tuple[Ids, ...]
    compared: tuple[Ids, ...]
    logits: tuple[Logits, ...]

    @classmethod
    def of(cls, rows: Sequence[Ids], whole: Sequence[Logits]) -> Passage:
        """Passage from the logits [tokens, vocab] of every position of each row."""
        places = tuple(compared(len(row)) for row in rows)
        return cls(tuple(rows), places, tuple(logits[own] for logits, own in zip(whole, places, strict=True)))


@dataclass(frozen=True, eq=False)
class Expected:
    """Reference logits. `lowered`: of the model with lowered limits; None where the straight rows cover all. `floor`:
    figures of a correct computation in the artifact's dtype; None: not measured.
    """

    straight: Passage
    lowered: Passage | None = None
    floor: Figures | None = None


def token_rows(tokenizer: Path | None, vocab: int, proof: Proof) -> tuple[tuple[Ids, ...], tuple[Ids, ...]]:
    """Ids of the straight rows and of the lowered ones, [tokens] each: text by the tokenizer in the folder `tokenizer`,
    else seeded random ids below `vocab`. The lowered row is the beginning of the first one.

    Raises TokenizerError where the tokenizer cannot be read.
    """
    count = sum(proof.rows)
    found = load_tokenizer(tokenizer) if tokenizer is not None else None
    ids = found.encode(f"{TEXT}\n\n{built_in_text(HELD_OUT).decode()}") if found is not None else []
    if len(ids) < count or max(ids[:count]) >= vocab:
        ids = np.random.default_rng(0).integers(0, vocab, count, np.int64).tolist()
    stream = np.array(ids[:count], np.int64)
    rows = tuple(np.split(stream, np.cumsum(proof.rows)[:-1]))
    return rows, tuple(rows[0][:length] for length in proof.lowered_rows)


def write_reference(path: Path, expected: Expected) -> None:
    """Write the safetensors file `path`."""
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[Any]] = {**_tensors(expected.straight)}
    if expected.lowered is not None:
        tensors |= {_LOWERED + name: tensor for name, tensor in _tensors(expected.lowered).items()}
    if expected.floor is not None:
        tensors[_FLOOR] = np.array(astuple(expected.floor), np.float64)
    save_file(tensors, path)


def read_reference(path: Path) -> Expected:
    """Inverse of `write_reference`. Raises ArtifactError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        lowered = {n.removeprefix(_LOWERED): t for n, t in tensors.items() if n.startswith(_LOWERED)}
        floor = Figures(*tensors[_FLOOR].tolist()) if _FLOOR in tensors else None
        return Expected(_passage(tensors), _passage(lowered) if lowered else None, floor)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise ArtifactError(
            f"{path} has no reference logits: {error}", hint="copy the artifact again, or build it again"
        ) from None


def _tensors(passage: Passage) -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
    lengths = [len(row) for row in passage.rows]
    begins = np.cumsum([0, *lengths[:-1]])
    return {
        "token_ids": np.concatenate(passage.rows),
        "rows": np.array(lengths, np.int64),
        "positions": np.concatenate([begin + own for begin, own in zip(begins, passage.compared, strict=True)]),
        "logits": np.ascontiguousarray(np.concatenate(passage.logits), np.float32),
    }


def _passage(tensors: Mapping[str, NDArray[Any]]) -> Passage:
    ids, logits = tensors["token_ids"], tensors["logits"]
    lengths = tensors.get("rows", np.array([len(ids)]))
    positions = tensors.get("positions", np.arange(len(ids)))
    ends = np.cumsum(lengths)
    if ends[-1] != len(ids) or len(logits) != len(positions):
        raise ValueError(
            f"rows of {lengths.tolist()} tokens, found {len(ids)}; {len(logits)} of {len(positions)} logits"
        )
    row_of = np.searchsorted(ends, positions, side="right")
    mine = [row_of == row for row in range(len(lengths))]
    return Passage(
        tuple(np.split(ids, ends[:-1])),
        tuple(positions[own] - (end - length) for own, end, length in zip(mine, ends, lengths, strict=True)),
        tuple(logits[own] for own in mine),
    )
