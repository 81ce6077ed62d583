"""Tiny models whose shards vLLM itself wrote once: golden.json has the digest of each rank's file.

Their weights are numbers drawn from the names of their tensors, so that no random generator of torch decides a digest.

    python -m tests.targets.vllm.golden_cases write FOLDER            the checkpoints
    python -m tests.targets.vllm.golden_cases record SHARDS VERSION   golden.json from SHARDS/tp{n}/<case>/
    python -m tests.targets.vllm.golden_cases check SHARDS            SHARDS against golden.json

`scripts/test-vllm` runs all of it with vLLM between the steps (save_state.py).
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import TINY, write_checkpoint

GOLDEN = Path(__file__).parent / "golden.json"
TPS = (1, 2)
OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "chatglm": {"kv_channels": 8},  # vLLM divides the hidden size by the heads
    "chatglm/3-long": {"kv_channels": 8},
    "deepseek_v3": {"topk_method": "noaux_tc"},  # as published; transformers leaves it out
    "deepseek_v3/yarn": {"topk_method": "noaux_tc"},
}
WITHOUT = (
    "baichuan",  # no class of vLLM 0.32
    "internlm",
    "mpt",
    "qwen",
    "santacoder",
    "chatglm/2-long",  # widths that vLLM does not read
    "starcoder/all-kv-heads",  # every rank computes all of it
    "deepseek_v3/halves",  # biases that the class does not have
    "llama4/all-sparse",
    "qwen3/tied",
    "stablelm/parallel",
    "qwen2/window",  # windows in some layers
    "llama/three-kv-heads",  # no two ranks
    "gpt_oss",  # vLLM reads only yarn
    "gpt_oss/no-bias",
)
CASES = tuple(case for case in TINY if case not in WITHOUT and case.partition("/")[0] not in WITHOUT[:5])
Shard = Mapping[str, tuple[str, tuple[int, ...], bytes]]
"""Data type, shape and bytes of each tensor of a file, by name."""


def folder_of(case: str) -> str:
    """Name of the folder of a case."""
    return case.replace("/", "-")


def bits(name: str, count: int, itemsize: int) -> np.ndarray:
    """`count` elements of the tensor `name` as unsigned integers: values from 0 to 2, in bfloat16 or float32."""
    drawn = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).integers(0, 1 << 14, count, np.uint16)
    return drawn if itemsize == 2 else drawn.astype(np.uint32) << np.uint32(16)


def write(case: str, folder: Path) -> None:
    """Checkpoint of `case` in `folder`, with the numbers of `bits`."""
    write_checkpoint(case, folder, **OVERRIDES.get(case, {}))
    config = json.loads((folder / "config.json").read_bytes()) | dict(OVERRIDES.get(case, {}))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (path,) = folder.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    header, begin = _header(data)
    for name, entry in header.items():
        low, high = entry["data_offsets"]
        itemsize = {"BF16": 2, "F32": 4}[entry["dtype"]]
        data[begin + low : begin + high] = bits(name, (high - low) // itemsize, itemsize).tobytes()
    path.write_bytes(data)


def read(path: Path) -> Shard:
    """Tensors of a safetensors file."""
    data = path.read_bytes()
    header, begin = _header(data)
    return {
        name: (e["dtype"], tuple(e["shape"]), data[begin + e["data_offsets"][0] : begin + e["data_offsets"][1]])
        for name, e in header.items()
    }


def digest(shard: Shard) -> str:
    """sha256 of names, types, shapes and bytes, whatever the order in the file."""
    found = hashlib.sha256()
    for name, (dtype, shape, data) in sorted(shard.items()):
        found.update(f"{name} {dtype} {list(shape)}\n".encode() + data)
    return found.hexdigest()


def names(shard: Shard) -> dict[str, list[int]]:
    """Shapes by name, of the first two layers and outside of layers."""
    parts = {name: [part for part in name.split(".") if part.isdigit()] for name in shard}
    return {name: list(shard[name][1]) for name in sorted(shard) if not parts[name] or int(parts[name][0]) < 2}


def found_in(shards: Path) -> dict[str, dict[str, list[str]]]:
    """Digest of each rank's file, by case and tp."""
    return {
        case: {
            str(tp): [digest(read(shards / f"tp{tp}" / folder_of(case) / _file(rank))) for rank in range(tp)]
            for tp in TPS
        }
        for case in CASES
    }


def record(shards: Path, version: str) -> None:
    """Write golden.json. `names`: shapes on rank 0 of 2, of the first case of each recipe."""
    first = {case.partition("/")[0]: case for case in reversed(CASES)}
    shapes = {case: names(read(shards / "tp2" / folder_of(case) / _file(0))) for case in first.values()}
    tables: dict[str, dict[str, Any]] = {"digests": found_in(shards), "names": shapes}
    lines = [f'"vllm": {json.dumps(version)}']
    for key, table in tables.items():
        entries = ",\n".join(f"{json.dumps(case)}: {json.dumps(value)}" for case, value in table.items())
        lines.append(f"{json.dumps(key)}: {{\n{entries}\n}}")
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(arguments: list[str]) -> int:
    """Run one of the commands above; 1 if shards differ from golden.json."""
    command, folder = arguments[0], Path(arguments[1])
    if command == "write":
        for case in CASES:
            write(case, folder / folder_of(case))
        return 0
    if command == "record":
        record(folder, arguments[2])
        return 0
    expected, found = json.loads(GOLDEN.read_bytes())["digests"], found_in(folder)
    other = [case for case in CASES if found[case] != expected.get(case)]
    print(f"{len(CASES) - len(other)} passed, {len(other)} failed", *other)
    return 1 if other else 0


def _header(data: bytes | bytearray) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8 : 8 + length]))
    header.pop("__metadata__", None)
    return header, 8 + length


def _file(rank: int) -> str:
    return f"model-rank-{rank}-part-0.safetensors"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
