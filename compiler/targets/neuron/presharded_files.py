"""Files of the presharded layout, written from the shards of a build, one tensor after the other."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open

from compiler.model.lazy import RankPlan, read, whole
from compiler.storage.checkpoints.header import read_header
from compiler.storage.files.writer import RankFileWriter, file_order
from compiler.targets.neuron.layout import shard_file
from compiler.targets.neuron.presharded import presharded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.artifact.parts import Part
    from compiler.model.config import ModelConfig

_BITS = {2: torch.uint16, 4: torch.uint32}
"""Integers of the width of an element in bytes."""


def write_presharded(config: ModelConfig, tp: int, shards: Path, texts: Sequence[Part], out: Path) -> None:
    """Write the layout of `config` into the folder `out`, from the shards in the folder `shards`, with the model's own
    `texts`; config.json among them gets the mark by which the library knows the layout.

    Raises RefusedError for a model that the layout is not written for.
    """
    plans = []
    for rank in range(tp):
        header = read_header(shards / shard_file(rank))
        tensors = tuple((name, whole(f"{rank}:{name}", one.shape, one.dtype)) for name, one in header.items())
        plans.append(RankPlan(str(rank), tensors))
    files = presharded(config, plans)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(shards / shard_file(rank), "pt")) for rank in range(tp)]

        def bits(name: str) -> np.ndarray:
            rank, _, tensor = name.partition(":")
            found = opened[int(rank)].get_tensor(tensor)
            array: np.ndarray = found.reshape(-1).view(_BITS[found.element_size()]).numpy()
            return array

        for file in files:
            ordered = file_order(file.tensors, lambda named: named[1].nbytes)
            planned = [(name, tensor.dtype, tensor.stored_shape) for name, tensor in ordered]
            with RankFileWriter(out / file.file, planned) as writer:
                for _, tensor in ordered:
                    writer.append(np.ascontiguousarray(read(tensor, bits)).tobytes())
                writer.sync()
    for text in texts:
        data = text.read()
        if text.name == "config.json":
            marked = json.loads(data) | {"is_presharded_checkpoint": True}
            data = (json.dumps(marked, indent=2, sort_keys=True) + "\n").encode()
        (out / text.name).write_bytes(data)
