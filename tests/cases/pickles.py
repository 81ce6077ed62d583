"""Checkpoints that exist only as pytorch_model.bin."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.cases.case import case
from tests.cases.checkpoints import CONFIG, difference, weights, write, write_json
from tests.cases.runs import convert, plan, refused

if TYPE_CHECKING:
    from pathlib import Path

SAME = 2e-5


def pickled(folder: Path, state: object, *, archive: bool = True) -> Path:
    """The tiny checkpoint as pytorch_model.bin with `state`; `archive` False: in the format of torch before 1.6."""
    import torch

    write(folder)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=archive)
    return folder


@case(67, ".bin: shared storage, the old format, parameters, views, transposed tensors")
def pickles(folder: Path) -> None:
    """Rewritten exactly."""
    import torch

    tensors = weights({**CONFIG, "tie_word_embeddings": True})
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    state: dict[str, object] = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    for name in list(state)[2:9]:
        padded = torch.cat([torch.zeros_like(tensors[name]), tensors[name]])
        matrix = tensors[name].ndim == 2
        state[name] = tensors[name].T.contiguous().T if matrix else padded[len(tensors[name]) :]
    for archive in (True, False):
        model = pickled(folder / str(archive), state, archive=archive)
        write_json(model / "config.json", {**CONFIG, "tie_word_embeddings": True})
        assert difference(model) < SAME


class _Hostile:
    """Object of a file that would run a command."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.marker,)


@case(68, ".bin that would run a command")
def hostile(folder: Path) -> None:
    """Refused, and nothing is run."""
    model = pickled(folder / "model", {"w": _Hostile(str(folder / "was-run"))})
    refused(convert(model, folder / "out"), 3, "holds more than tensors")
    assert not (folder / "was-run").exists()


@case(68, '.bin with {"state_dict": ...}')
def wrapped(folder: Path) -> None:
    """The key is named."""
    model = pickled(folder / "model", {"state_dict": weights(CONFIG), "epoch": 3})
    refused(plan(model), 3, "under `state_dict`, beside `epoch`", "save that map by itself")
