"""Artifacts as a build leaves them, with engines that are none: their names and config.json are all that is read."""

from __future__ import annotations

import json
from pathlib import Path

from compiler.lmi.images import Release
from compiler.lmi.package import EngineFacts, container_files, engine_folder, tokenizer_paths

RELEASES: tuple[Release, ...] = tuple((0, minor) for minor in range(25, 34))
PACKED: tuple[Release, ...] = tuple(release for release in RELEASES if release >= (0, 27))
"""Those whose whole tree we write."""
TRITON: Release = (0, 30)
FLAT: Release = (0, 33)
TOKENIZER = (
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def facts(release: Release, tp: int = 2, **changed: object) -> EngineFacts:
    """An engine of 8 rows, 1024 tokens of prompt and 512 of answer."""
    fields: dict[str, object] = {
        "model": "tiny",
        "release": release,
        "tp": tp,
        "dtype": "float16",
        "max_batch_size": 8,
        "max_input_len": 1024,
        "max_seq_len": 1536,
        "max_num_tokens": 4096,
        "engine_files": ("config.json", *(f"rank{rank}.engine" for rank in range(tp))),
        "tokenizer_files": TOKENIZER,
    }
    return EngineFacts(**{**fields, **changed})  # type: ignore[arg-type]


def engine_config(tp: int = 2) -> dict[str, object]:
    """What the builder writes, as far as anybody here reads it."""
    return {
        "version": "0.12.0",
        "pretrained_config": {
            "architecture": "LlamaForCausalLM",
            "mapping": {"world_size": tp, "tp_size": tp, "pp_size": 1},
        },
        "build_config": {"max_batch_size": 8, "max_input_len": 1024, "max_seq_len": 1536, "plugin_config": {}},
    }


def write_artifact(folder: Path, packed: EngineFacts) -> Path:
    """The artifact of `packed` in `folder`, which is made."""
    engines = folder / engine_folder(packed)
    engines.mkdir(parents=True)
    for name in packed.engine_files:
        (engines / name).write_bytes(b"no engine")
    (engines / "config.json").write_text(json.dumps(engine_config(packed.tp)))
    for name, path in tokenizer_paths(packed).items():
        (folder / path).write_text(json.dumps({"file": name}))
    for path, data in container_files(packed).items():
        (folder / path).write_bytes(data)
    (folder / "manifest.json").write_text("{}")
    return folder
