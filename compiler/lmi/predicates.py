"""Front end's check of a folder: serve it as a compiled engine, or silently compile at start-up.

The front end has one check, another one in each family (`LmiUtils.isValidTrtLlmModelRepo`):

    triton (v0.25.0 to v0.29.0, 0.30.0-dlc to 0.32.0-dlc)   an immediate sub-folder holds the files config.pbtxt and
                                                            tokenizer_config.json
    engine (0.33.0-dlc)                                     config.json of the folder is JSON with a key build_config

It checks nothing else: no engines, tp, versions or GPU. It runs only for models for TensorRT-LLM:
`option.rolling_batch` is `trtllm`, or `auto` or absent in an image with it in SERVING_FEATURES, as in all of them
(triton); or `option.backend` is not `pytorch` (engine). If it fails, the conversion starts, and only the log shows it.

`check.py` has the checks that the front end lacks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from compiler.errors import LmiCompileError
from compiler.lmi import java_properties
from compiler.lmi.images import TRTLLM, Family, Release, trtllm_image
from compiler.lmi.properties import SERVING_PROPERTIES

Verdict = Literal["ready", "compiles", "fails", "elsewhere"]
"""Front end's treatment of a folder: serve it, compile it, stop with an error, or load `option.model_id` instead."""


_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.z", ".mar")


def recognized_as_compiled(folder: Path, release: Release) -> bool:
    """Whether the front end recognizes the folder as compiled.

    Raises:
        ValueError: config.json is not a JSON object, at which the front end fails (engine).
        RefusedError: a release without engines.
    """
    return _COMPILED[_family(release)](folder)


def verdict(folder: Path, release: Release) -> Verdict:
    """Treatment of `folder` by a container of that release, mounted as /opt/ml/model.

    Raises:
        RefusedError: a release without engines.
    """
    try:
        properties = read_properties(folder)
    except LmiCompileError:
        return "fails"
    if loaded_as_store(folder):
        verdicts = {_treatment(path, release, {}) for path in sorted(folder.iterdir()) if path.is_dir()}
        return verdicts.pop() if len(verdicts) == 1 else "fails"
    return _treatment(folder, release, properties or {})


def loaded_as_store(folder: Path) -> bool:
    """Whether the server loads each sub-folder as a model of its own: the folder holds only folders and archives.

    Hidden files are ignored. Source: serving/src/main/java/ai/djl/serving/util/ModelStore.java at v0.29.0 (not run).
    """
    seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return all(path.is_dir() or path.name.endswith(_ARCHIVES) for path in seen)


def read_properties(folder: Path) -> dict[str, str] | None:
    """serving.properties of a folder as the front end reads it; None without one.

    Raises:
        UsageError: it violates Java's syntax.
    """
    path = folder / SERVING_PROPERTIES
    return java_properties.parse(path.read_bytes().decode("latin-1")) if path.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """JSON object in a file. Raises ValueError for anything else."""
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, found {type(content).__name__}")
    return content


def _treatment(folder: Path, release: Release, properties: dict[str, str]) -> Verdict:
    model_id = properties.get("option.model_id")
    if model_id is not None:
        return "elsewhere"
    if not _FOR_TENSORRT_LLM[_family(release)](properties):
        return "fails"
    try:
        return "ready" if recognized_as_compiled(folder, release) else "compiles"
    except ValueError:
        return "fails"


def _triton_repository(folder: Path) -> bool:
    return any(
        (path / "config.pbtxt").is_file() and (path / "tokenizer_config.json").is_file()
        for path in folder.iterdir()
        if path.is_dir()
    )


def _engine_folder(folder: Path) -> bool:
    path = folder / "config.json"
    return path.is_file() and "build_config" in read_json(path)


_COMPILED: dict[Family, Callable[[Path], bool]] = {"triton": _triton_repository, "engine": _engine_folder}
_FOR_TENSORRT_LLM: dict[Family, Callable[[dict[str, str]], bool]] = {
    "triton": lambda properties: properties.get("option.rolling_batch", "auto") in ("auto", "trtllm"),
    "engine": lambda properties: properties.get("option.backend") != "pytorch",
}


def _family(release: Release) -> Family:
    trtllm_image(f"{release[0]}.{release[1]}.0")
    return TRTLLM[release].family
