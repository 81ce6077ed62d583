"""Checkpoints that vLLM reads itself: files in order, under the names of a model hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import RefusedError, UsageError
from compiler.model.lazy import Lazy, RankPlan
from compiler.storage.checkpoints.header import read_header
from compiler.targets.vllm.architectures import row_for
from compiler.targets.vllm.version import version_of

if TYPE_CHECKING:
    from compiler.artifact.parts import Part
    from compiler.model.config import ModelConfig
    from compiler.model.roles import TensorId
    from compiler.targets.vllm.options import VllmOptions

INDEX = "model.safetensors.index.json"
WEIGHTS = ("auto", "shards", "plain")
LIMIT = 5 * 10**9
"""Bytes of a file, but for one larger tensor: that of `save_pretrained`."""


def copies(config: ModelConfig, options: VllmOptions) -> str:
    """Reason why the checkpoint is packed as it is, "" where shards are written. Raises UsageError."""
    if options.weights not in WEIGHTS:
        raise UsageError(
            f"`--weights` is one of {', '.join(WEIGHTS)}; found `{options.weights}`", hint="leave it out for auto"
        )
    if options.weights == "plain":
        return "`--weights plain` asks for it"
    if options.weights == "shards":
        return ""
    try:
        row_for(config, version_of(options))
    except RefusedError as error:
        reason = error.message.partition(": ")[2] or error.message
        return f"no layout of its shards is known here ({reason})"
    return ""


def file_plans(tensors: Mapping[TensorId, Lazy]) -> list[RankPlan]:
    """Files of a checkpoint, in the order of its tensors. `tensors`: by their names (`model/unknown.py`)."""
    files: list[list[tuple[str, Lazy]]] = [[]]
    held = 0
    for tensor, lazy in tensors.items():
        if files[-1] and held + lazy.nbytes > LIMIT:
            files.append([])
            held = 0
        files[-1].append((tensor.role, lazy))
        held += lazy.nbytes
    count = len(files)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    return [
        RankPlan(name, tuple(tensors))
        for name, tensors in zip(["model.safetensors"] if count == 1 else names, files, strict=True)
    ]


def index_of(files: Sequence[Part]) -> bytes:
    """model.safetensors.index.json of safetensors files on disk."""
    headers = {part.name: read_header(part.content) for part in files if isinstance(part.content, Path)}
    weights = {tensor: name for name, header in headers.items() for tensor in header}
    size = sum(entry.nbytes for header in headers.values() for entry in header.values())
    return (json.dumps({"metadata": {"total_size": size}, "weight_map": weights}, indent=2) + "\n").encode()
