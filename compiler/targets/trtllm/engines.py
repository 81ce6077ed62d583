"""Check of the output folder of `trtllm-build`: all ranks are there, and they are built from our checkpoint.

rank{i}.engine    one per rank
config.json       {version, pretrained_config: the checkpoint's config, completed; build_config: limits, plugins}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import CompileError
from compiler.targets.trtllm.section import BuildLimits
from compiler.targets.trtllm.version import Version, show

STAND_IN = "+stand-in"
"""Suffix of a stand-in toolchain's version."""
_SAME = (
    "architecture", "dtype", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_size", "intermediate_size", "position_embedding_type",
)  # fmt: skip
_SAME_MAPPING = ("world_size", "tp_size", "pp_size")
_AT_LEAST = ("max_batch_size", "max_seq_len")
"""Keys of build_config to check. The builder rounds and clamps the others, differently in each version."""


@dataclass(frozen=True)
class BuiltEngines:
    """Engine files. `version`: of the TensorRT-LLM that built them. `stand_in`: built by a stand-in of the tests, never
    published.
    """

    files: tuple[Path, ...]
    version: str
    stand_in: bool


def check_engines(folder: Path, checkpoint: Mapping[str, Any], version: Version, limits: BuildLimits) -> BuiltEngines:
    """Check that `folder` has the engines of a checkpoint (`checkpoint`: its config.json) by that TensorRT-LLM.

    Raises:
        CompileError: a list of all missing and mismatching things.
    """
    if problems := engine_problems(folder, checkpoint, version, limits):
        raise CompileError(
            "the engine folder does not match the checkpoint: " + "; ".join(problems),
            hint="Read the builder's log, and build again into an empty folder.",
        )
    names = tuple(folder / f"rank{rank}.engine" for rank in range(checkpoint["mapping"]["world_size"]))
    return BuiltEngines(names, *built_by((folder / "config.json").read_bytes()))


def engine_problems(folder: Path, checkpoint: Mapping[str, Any], version: Version, limits: BuildLimits) -> list[str]:
    """Problems of an engine folder: missing files, mismatches with version, limits and the checkpoint's config.json."""
    ranks = int(checkpoint["mapping"]["world_size"])
    files = tuple(folder / f"rank{rank}.engine" for rank in range(ranks))
    problems = [f"{file.name} is missing or empty" for file in files if not file.is_file() or not file.stat().st_size]
    problems += [f"{file.name} has no rank" for file in sorted(folder.glob("rank*.engine")) if file not in files]
    config, trouble = _read(folder / "config.json")
    built = config.get("pretrained_config", {})
    pairs = [(key, checkpoint[key], built.get(key)) for key in _SAME]
    pairs += [(key, checkpoint["mapping"][key], built.get("mapping", {}).get(key)) for key in _SAME_MAPPING]
    problems += trouble or [f"config.json: {key}: expected {a!r}, found {b!r}" for key, a, b in pairs if a != b]
    by = str(config.get("version", "")).removesuffix(STAND_IN)
    if not trouble and by.split(".")[:2] != show(version).split(".")[:2]:
        problems.append(f"config.json: built by TensorRT-LLM {by}, expected {show(version)}")
    for key in _AT_LEAST:
        found = config.get("build_config", {}).get(key)
        if isinstance(found, int) and found < getattr(limits, key):
            problems.append(f"config.json: {key}: expected at least {getattr(limits, key)}, found {found}")
    return problems


def built_by(config: bytes) -> tuple[str, bool]:
    """Version of TensorRT-LLM in the engines' config.json, and whether it is a stand-in's."""
    version = str(json.loads(config)["version"])
    return version.removesuffix(STAND_IN), version.endswith(STAND_IN)


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return {}, [f"config.json cannot be read: {error}"]
    missing = [key for key in ("version", "pretrained_config", "build_config") if key not in content]
    return content, [f"config.json lacks {key}" for key in missing]
