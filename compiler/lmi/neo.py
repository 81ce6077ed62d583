"""Interface of a step in a SageMaker optimization job (Neo): folders and properties in, an output tree or an error out.

    SM_NEO_INPUT_MODEL_DIR          model in Hugging Face's layout, with a serving.properties; OPTION_* fill its gaps
    SM_NEO_COMPILED_MODEL_DIR       empty folder for the artifact
    SM_NEO_COMPILATION_ERROR_FILE   {"error": "CLASS('message')"} where the step fails; its exit code is not 0 then
    SM_NEO_CACHE_DIR                folder that later jobs see again; optional
    SM_NEO_HF_CACHE_DIR             cache of data sets; optional, a folder if it is set
    COMPILER_OPTIONS                JSON with `compiler_flags`, LMI 0.27 and 0.28 only
    SERVING_FEATURES                back end of the image: `trtllm`, `vllm`

Sources: serving/docker/partition/sm_neo_{utils,dispatcher,trt_llm_partition,quantize}.py of djl-serving at v0.27.0 to
v0.29.0, on 0.30.0-dlc to 0.33.0-dlc and at v0.36.0; tests/integration/launch_container.sh at v0.29.0 (mounts).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import LmiCompileError, RefusedError, SourceError, UsageError

INPUT, OUTPUT, ERRORS = "SM_NEO_INPUT_MODEL_DIR", "SM_NEO_COMPILED_MODEL_DIR", "SM_NEO_COMPILATION_ERROR_FILE"
CACHE, DATA_CACHE = "SM_NEO_CACHE_DIR", "SM_NEO_HF_CACHE_DIR"
_REQUIRED = (INPUT, OUTPUT, ERRORS)
_TARGETS = {"trtllm": "trtllm", "vllm": "vllm", "lmi-dist": "checkpoint"}
"""Target by feature of the image; an image without a known one is this project's own."""


@dataclass(frozen=True)
class NeoJob:
    """Folders of a job. `cache`: None without one."""

    model: Path
    output: Path
    errors: Path
    cache: Path | None


def neo_job(environment: Mapping[str, str]) -> NeoJob:
    """Folders of the job in a container's environment.

    Raises UsageError: a variable is missing, names no folder, or has flags of another compiler; or the output folder is
    not empty.
    """
    missing = [name for name in _REQUIRED if not environment.get(name)]
    if missing:
        raise UsageError(
            f"an optimization job sets {', '.join(_REQUIRED)}; missing: {', '.join(missing)}",
            hint="run this command in a container of CreateOptimizationJob, or set them to folders of your own",
        )
    for name in (INPUT, CACHE, DATA_CACHE):
        value = environment.get(name)
        if value and not Path(value).is_dir():
            raise UsageError(f"{name} names a folder; found `{value}`", hint="mount it, or leave the variable out")
    output, cache = Path(environment[OUTPUT]), environment.get(CACHE)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{OUTPUT} names an empty folder; {output} has files in it", hint="empty it")
    _refuse_flags(environment.get("COMPILER_OPTIONS", ""))
    return NeoJob(Path(environment[INPUT]), output, Path(environment[ERRORS]), Path(cache) if cache else None)


def target_of_features(environment: Mapping[str, str]) -> str | None:
    """Target of the back end in SERVING_FEATURES; None if it names no known one."""
    features = environment.get("SERVING_FEATURES", "").split(",")
    return next((target for feature, target in _TARGETS.items() if feature in features), None)


def error_json(error: BaseException) -> bytes:
    """Content of the error file: the class names of LMI's own scripts, so that a caller can tell wrong input apart."""
    wrong = isinstance(error, UsageError | RefusedError | SourceError)
    kind = "InputConfiguration" if wrong else "OptimizationFatalError"
    text = error.message if isinstance(error, LmiCompileError) else repr(error)
    hint = error.hint if isinstance(error, LmiCompileError) else ""
    return json.dumps({"error": f"{kind}({'. '.join(filter(None, (text, hint)))!r})"}).encode()


def _refuse_flags(text: str) -> None:
    """Raise UsageError for COMPILER_OPTIONS with flags of another compiler, or that are no JSON."""
    if not text.strip():
        return
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"COMPILER_OPTIONS is JSON; {error}", hint="leave it out") from None
    flags = options.get("compiler_flags") if isinstance(options, dict) else options
    if flags:
        raise UsageError(
            f"COMPILER_OPTIONS has flags of TensorRT-LLM's own tools: {json.dumps(flags)[:200]}",
            hint="write properties of a serving.properties instead, such as `option.quantize`",
        )
