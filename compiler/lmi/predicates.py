"""Does a container take this folder for a compiled engine, or does it compile at start-up without a word?

The front end asks one question, and another one in each family (`LmiUtils.isValidTrtLlmModelRepo`):

    triton (v0.25.0 to v0.29.0, 0.30.0-dlc to 0.32.0-dlc)   some immediate sub-folder holds the files config.pbtxt and
                                                            tokenizer_config.json
    engine (0.33.0-dlc)                                     config.json of the folder is JSON with a key build_config

It looks at nothing else: not at engines, tp, versions or the GPU. It asks only if the model is one for TensorRT-LLM:
`option.rolling_batch` is `trtllm`, or `auto` or absent in an image whose SERVING_FEATURES name it, which all have
(triton); or `option.backend` is not `pytorch` (engine). A "no" starts the conversion; nothing says so but the log.

`check.py` asks the rest, all that the front end should have asked.
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
"""What the front end does with the folder: serves it as it is; compiles it; stops with an error; or looks at another
place, because `option.model_id` names one.
"""


_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.z", ".mar")


def taken_for_compiled(folder: Path, release: Release) -> bool:
    """The front end's own question about the folder in which it looks for the model.

    Raises:
        ValueError: config.json is not a JSON object, on which the front end dies (engine).
        RefusedError: a release without engines.
    """
    return _TAKEN[_family(release)](folder)


def verdict(folder: Path, release: Release) -> Verdict:
    """What a container of that release does when SageMaker mounts `folder` as /opt/ml/model.

    Raises:
        RefusedError: a release without engines.
    """
    try:
        properties = read_properties(folder)
    except LmiCompileError:
        return "fails"
    if taken_for_store(folder):
        verdicts = {_asked(path, release, {}) for path in sorted(folder.iterdir()) if path.is_dir()}
        return verdicts.pop() if len(verdicts) == 1 else "fails"
    return _asked(folder, release, properties or {})


def taken_for_store(folder: Path) -> bool:
    """Whether the server takes each sub-folder for a model of its own: nothing else lies there but archives.

    Source: serving/src/main/java/ai/djl/serving/util/ModelStore.java at v0.29.0, read and not run. Hidden files do not
    count.
    """
    seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return all(path.is_dir() or path.name.endswith(_ARCHIVES) for path in seen)


def read_properties(folder: Path) -> dict[str, str] | None:
    """serving.properties of a folder as the front end reads it; None where there is none.

    Raises:
        UsageError: not of Java's syntax.
    """
    path = folder / SERVING_PROPERTIES
    return java_properties.parse(path.read_bytes().decode("latin-1")) if path.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError where the file is not a JSON object."""
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, found {type(content).__name__}")
    return content


def _asked(folder: Path, release: Release, properties: dict[str, str]) -> Verdict:
    model_id = properties.get("option.model_id")
    if model_id is not None:
        return "elsewhere"
    if not _CONCERNED[_family(release)](properties):
        return "fails"
    try:
        return "ready" if taken_for_compiled(folder, release) else "compiles"
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


_TAKEN: dict[Family, Callable[[Path], bool]] = {"triton": _triton_repository, "engine": _engine_folder}
_CONCERNED: dict[Family, Callable[[dict[str, str]], bool]] = {
    "triton": lambda properties: properties.get("option.rolling_batch", "auto") in ("auto", "trtllm"),
    "engine": lambda properties: properties.get("option.backend") != "pytorch",
}


def _family(release: Release) -> Family:
    trtllm_image(f"{release[0]}.{release[1]}.0")
    return TRTLLM[release].family
