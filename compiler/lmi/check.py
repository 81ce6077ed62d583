"""Named checks for all that makes a container compile, fail or serve another model than the engine in the folder.

The front end checks almost nothing (`predicates.py`): without these a fault shows after minutes on a GPU, or never.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compiler.errors import ArtifactError, LmiCompileError
from compiler.lmi import java_properties
from compiler.lmi.files import Problem, rank_problems, tokenizer_problems, weights_among
from compiler.lmi.images import TRTLLM, Release, trtllm_image
from compiler.lmi.predicates import loaded_as_store, read_json, read_properties, verdict
from compiler.lmi.properties import SERVING_PROPERTIES, Properties, Value, parse
from compiler.lmi.triton import MOUNTED


def check(folder: Path, release: Release) -> list[Problem]:
    """Problems of an artifact for a container of that release; empty where the container serves it.

    Raises:
        RefusedError: a release without engines.
        ArtifactError: `folder` is no folder.
    """
    image = trtllm_image(f"{release[0]}.{release[1]}.0")
    if not folder.is_dir():
        raise ArtifactError(f"expected the folder of an artifact; {folder} is no folder", hint="pass its path")
    properties, problems = _properties(folder, release)
    entries = properties.entries if properties else {}
    problems += {"triton": _check_triton, "engine": _check_engine}[image.family](folder, release, entries)
    found = verdict(folder, release)
    if found in _VERDICTS:
        problems.append(Problem(found, f"LMI {image.lmi} {_VERDICTS[found]}"))
    return problems


_VERDICTS = {
    "compiles": "does not recognize this folder as a compiled engine: it would silently compile at start-up",
    "fails": "would stop with an error before it loads the engine",
    "elsewhere": "would load the model that `option.model_id` names, not this one",
}

_NEEDED: dict[str, Mapping[str, tuple[Value, ...]]] = {
    "triton": {
        "option.rolling_batch": ("trtllm",),
        "option.tensor_parallel_degree": (),
        "option.max_rolling_batch_size": (),
    },
    "engine": {
        "engine": ("Python",),
        "option.entryPoint": ("djl_python.lmi_trtllm.trtllm_async_service",),
        "option.async_mode": (True,),
        "option.rolling_batch": ("disable",),
        "option.tensor_parallel_degree": (),
        "option.max_rolling_batch_size": (),
    },
}
"""Properties that each family requires, with their allowed values; () allows any."""


def _properties(folder: Path, release: Release) -> tuple[Properties | None, list[Problem]]:
    path = folder / SERVING_PROPERTIES
    if not path.is_file():
        store = "; a root that holds only folders is loaded as a store of models" if loaded_as_store(folder) else ""
        text = "serving.properties is missing at the root: tp, batch size and engine would be guessed" + store
        return None, [Problem("no-properties", text)]
    data = path.read_bytes()
    try:
        plain = java_properties.parse_plain(data.decode("latin-1"))
        properties = parse(data, release)
    except LmiCompileError as error:
        return None, [Problem("properties", f"serving.properties: {error.message}")]
    problems = []
    if plain != read_properties(folder):
        text = "Java and the container's scripts read serving.properties differently"
        problems.append(Problem("properties", f"{text}; write plain `key=value` lines of ASCII"))
    family = TRTLLM[release].family
    for name, allowed in _NEEDED[family].items():
        value = properties.entries.get(name)
        if value is None:
            problems.append(Problem("property-missing", f"serving.properties lacks `{name}`"))
        elif allowed and value not in allowed:
            wanted = " or ".join(map(str, allowed))
            problems.append(Problem("property", f"`{name}` is {wanted} for an engine; found {value}"))
    mpi = properties.entries.get("engine") == "MPI" or properties.entries.get("option.mpi_mode") is True
    if family == "triton" and not mpi:
        text = "neither `engine=MPI` nor `option.mpi_mode=true`: the handler refuses to start without MPI"
        problems.append(Problem("no-mpi", text))
    if "engine" not in properties.entries:
        problems.append(Problem("property-missing", "serving.properties lacks `engine`: none can be detected"))
    if properties.entries.get("option.backend") == "pytorch":
        text = "`option.backend=pytorch` runs a checkpoint: the engine would not be loaded"
        problems.append(Problem("property", text))
    return properties, problems


def _check_triton(folder: Path, release: Release, entries: Mapping[str, Value]) -> list[Problem]:
    models = sorted(path.parent for path in folder.rglob("config.pbtxt"))
    if not models:
        text = "no config.pbtxt: expected <model>/config.pbtxt one level below the root"
        if (folder / "config.json").is_file() and list(folder.glob("*.engine")):
            text += "; only LMI 0.33 takes a flat engine folder"
        return [Problem("no-model", text)]
    problems = [_wrong_depth(model.relative_to(folder)) for model in models if model.parent != folder]
    right = [model for model in models if model.parent == folder]
    if len(right) > 1:
        names = ", ".join(model.name for model in right)
        problems.append(Problem("two-models", f"expected one model folder, found {names}: either may be served"))
    for model in right:
        problems += _check_model(model, release, entries)
    return problems


def _wrong_depth(at: Path) -> Problem:
    where = str(at) if at.parts else "the root itself"
    return Problem("depth", f"config.pbtxt is in {where}; the front end only looks one level below the root")


def _check_model(model: Path, release: Release, entries: Mapping[str, Value]) -> list[Problem]:
    names = _names(model)
    problems = [_in(model.name, problem) for problem in tokenizer_problems(names)]
    problems += [Problem("weights", f"{model.name}/{name} belongs to a checkpoint") for name in weights_among(names)]
    problems += _check_pbtxt(model)
    engines = model / "1"
    if not engines.is_dir():
        return [*problems, Problem("no-version", f"{model.name}/1 is missing: expected the engines there")]
    return [*problems, *_check_engines(engines, f"{model.name}/1", release, entries)]


def _check_pbtxt(model: Path) -> Iterator[Problem]:
    text = (model / "config.pbtxt").read_text(encoding="utf-8", errors="replace")
    lines = "\n".join(line.partition("#")[0] for line in text.splitlines())
    unfilled = sorted(set(re.findall(r"\$\{(\w+)\}", lines)))
    if unfilled:
        yield Problem(
            "placeholder", f"{model.name}/config.pbtxt has placeholders without a value: {', '.join(unfilled)}"
        )
    if not re.search(r"decoupled\s*:\s*(?i:true)", lines):
        yield Problem("not-decoupled", f"{model.name}/config.pbtxt: the transaction policy is not `decoupled: True`")
    name = re.search(r'^\s*name\s*:\s*"([^"]*)"', lines)
    if name is not None and name[1] != model.name:
        yield Problem("name", f"{model.name}/config.pbtxt calls the model `{name[1]}`; Triton wants the folder's name")
    path = re.search(r'key\s*:\s*"gpt_model_path"\s*value\s*:?\s*\{\s*string_value\s*:\s*"([^"]*)"', lines)
    expected = f"{MOUNTED}/{model.name}/1"
    if path is None or path[1] != expected:
        found = path[1] if path else "none"
        yield Problem("path", f"{model.name}/config.pbtxt: gpt_model_path is {expected} when mounted; found {found}")


def _check_engine(folder: Path, release: Release, entries: Mapping[str, Value]) -> list[Problem]:
    problems = [_in("the root", problem) for problem in tokenizer_problems(_names(folder))]
    if any((path / "config.pbtxt").is_file() for path in folder.iterdir() if path.is_dir()):
        problems.append(Problem("triton", "found a Triton repository: LMI 0.33 only loads a flat engine folder"))
    return [*problems, *_check_engines(folder, "the root", release, entries)]


_OLD_CONFIG_UNTIL: Release = (0, 27)
"""First LMI release whose engine config.json is checked: TensorRT-LLM before 0.8 writes other keys."""


def _check_engines(folder: Path, where: str, release: Release, entries: Mapping[str, Value]) -> Iterator[Problem]:
    tp, pp = (_count(entries, f"option.{kind}_parallel_degree") for kind in ("tensor", "pipeline"))
    names, world = _names(folder), (tp or 1) * (pp or 1)
    if "config.json" in names and release >= _OLD_CONFIG_UNTIL:
        try:
            config = read_json(folder / "config.json")
        except ValueError as error:
            yield Problem("config", f"{where}: config.json cannot be read: {error}")
        else:
            yield from (_in(where, problem) for problem in _check_config(config, entries))
            world = int(_mapping(config).get("world_size", world))
    yield from (_in(where, problem) for problem in rank_problems(names, world))


def _check_config(config: Mapping[str, Any], entries: Mapping[str, Value]) -> Iterator[Problem]:
    lacking = [key for key in ("pretrained_config", "build_config") if not isinstance(config.get(key), dict)]
    if lacking:
        whose = "Hugging Face's" if "architectures" in config or "model_type" in config else "no engine's"
        yield Problem("config", f"config.json is {whose}: it lacks {' and '.join(lacking)}")
        return
    mapping = _mapping(config)
    for option, kind in (("tensor_parallel_degree", "tp_size"), ("pipeline_parallel_degree", "pp_size")):
        requested, built = _count(entries, f"option.{option}"), mapping.get(kind, 1)
        if requested is not None and requested != built:
            yield Problem("parallel", f"the engine has {kind} {built}; `option.{option}` requests {requested}")
    for option, limit in (("max_rolling_batch_size", "max_batch_size"), ("max_input_len", "max_input_len")):
        requested, built = _count(entries, f"option.{option}"), config["build_config"].get(limit)
        if requested is not None and isinstance(built, int) and requested > built:
            yield Problem("limits", f"`option.{option}` is {requested}; the engine was built for {built}")


def _mapping(config: Mapping[str, Any]) -> Mapping[str, Any]:
    pretrained = config.get("pretrained_config", {})
    found = pretrained.get("mapping", {}) if isinstance(pretrained, dict) else {}
    return found if isinstance(found, dict) else {}


def _count(entries: Mapping[str, Value], name: str) -> int | None:
    value = entries.get(name)
    return value if isinstance(value, int) else None


def _in(where: str, problem: Problem) -> Problem:
    return Problem(problem.what, f"{where}: {problem.text}")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())
