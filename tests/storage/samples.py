"""Small checkpoints of random bits that are finite numbers, written without the code under test."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np

from compiler.model.lazy import ITEMSIZE

Tensors = dict[str, tuple[str, tuple[int, ...]]]


def safetensors(path: Path, tensors: Tensors, seed: int = 0) -> dict[str, bytes]:
    """Write `{name: (dtype, shape)}` with random bits; the bits by name."""
    rng = np.random.default_rng(seed)
    data = {name: _finite(rng.bytes(prod(shape) * ITEMSIZE[dtype]), dtype) for name, (dtype, shape) in tensors.items()}
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + len(data[name])
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    raw(path, header, b"".join(data.values()))
    return data


def _finite(data: bytes, dtype: str) -> bytes:
    """The bits without the highest one of a float's exponent: magnitudes below 2."""
    bits = np.frombuffer(data, f"u{ITEMSIZE[dtype]}")
    if dtype[0] in "BF" and dtype != "BOOL":
        bits = bits & ~bits.dtype.type(1 << 8 * ITEMSIZE[dtype] - 2)
    return bits.tobytes()


def raw(path: Path, header: object, data: bytes) -> None:
    """Write a file with this header, correct or not, and this data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def checkpoint(folder: Path, tensors: Tensors, shards: int = 1) -> dict[str, bytes]:
    """Write a folder with config.json and `shards` files; the bits by name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    if shards == 1:
        return safetensors(folder / "model.safetensors", tensors)
    names = list(tensors)
    weight_map: dict[str, str] = {}
    data: dict[str, bytes] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        data |= safetensors(folder / file, part, seed=shard)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return data
