"""Parts of a published checkpoint: every file that a server needs of it, in the order of its index, by digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.artifact.parts import Part, existing
from compiler.errors import RefusedError
from compiler.storage.checkpoints.index import raise_problems, read_weight_map
from compiler.storage.checkpoints.source import QUANTIZATIONS, WeightFiles, weight_files

if TYPE_CHECKING:
    from pathlib import Path


def ordered_weights(folder: Path) -> WeightFiles:
    """Files with the weights of the checkpoint in `folder`: those of its index in the order in which it names them
    first, then the index.

    Raises CheckpointError for missing files, RefusedError for pickles.
    """
    names = [path.name for path in folder.iterdir() if path.is_file()]
    found = weight_files(names, str(folder), lambda name: read_weight_map(folder / name))
    raise_problems(found.problems, str(folder), "download these files, too")
    if found.pickled:
        raise RefusedError(
            f"expected weights in safetensors, which run no code when they are loaded; found {found.names[0]}",
            hint="choose a revision with safetensors, or save the model with `save_pretrained` of transformers",
        )
    if found.weight_map is None:
        return found
    shards = tuple(dict.fromkeys(found.weight_map.values()))
    return WeightFiles(found.index, found.weight_map, (*shards, found.index))


def checkpoint_parts(folder: Path) -> list[Part]:
    """Weights, index and quantization files of the checkpoint in `folder`, at the root of an artifact; config.json and
    tokenizer are parts of every build (pipeline/parts.py). Raises as `ordered_weights`, OSError.
    """
    names = [*ordered_weights(folder).names, *(name for name in QUANTIZATIONS if (folder / name).is_file())]
    return [existing(folder / name, name) for name in names]
