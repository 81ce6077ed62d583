"""Python API of lmi-compile:

    from compiler import api

    plan = api.plan("mixtral", tp=8)                                       # config.json and headers only
    api.build("examples/tiny-mixtral", "artifacts/mixtral", tp=2)
    print(api.generate("artifacts/mixtral", "Return the", max_new_tokens=8))
    with api.load("artifacts/mixtral") as model:                           # stays loaded
        print(model.generate(["Once upon a time"], api.GenerationParams(max_new_tokens=40))[0].text)

Functions take names and folders; `build` and `plan` also take a whole request (BuildRequest, PlanRequest), which has
every choice. Sizes are bytes, durations seconds. Every error is an LmiCompileError with `message`, `hint`, `exit_code`.
Importing this module loads nothing else: names are imported on first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.artifact.manifest import Manifest, load_manifest
    from compiler.deploy.prewarm import Prewarmed
    from compiler.errors import LmiCompileError
    from compiler.pipeline.job import BuildResult
    from compiler.pipeline.located import plan_of
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.request import Ask, BuildRequest, PlanRequest, Resources
    from compiler.registry.pull import Pulled
    from compiler.registry.push import Pushed
    from compiler.report import Report
    from compiler.runtime.generate import load
    from compiler.runtime.params import Completion, GenerationParams

_HOME = {
    "Ask": "compiler.pipeline.request",
    "BuildRequest": "compiler.pipeline.request",
    "BuildResult": "compiler.pipeline.job",
    "Completion": "compiler.runtime.params",
    "GenerationParams": "compiler.runtime.params",
    "LmiCompileError": "compiler.errors",
    "Manifest": "compiler.artifact.manifest",
    "Plan": "compiler.pipeline.plan",
    "PlanRequest": "compiler.pipeline.request",
    "Resources": "compiler.pipeline.request",
    "load": "compiler.runtime.generate",
    "load_manifest": "compiler.artifact.manifest",
    "plan_of": "compiler.pipeline.located",
}

__all__ = [
    "Ask",
    "BuildRequest",
    "BuildResult",
    "Completion",
    "GenerationParams",
    "LmiCompileError",
    "Manifest",
    "Plan",
    "PlanRequest",
    "Resources",
    "build",
    "generate",
    "load",
    "load_manifest",
    "open_artifact",
    "plan",
    "plan_of",
    "prewarm",
    "pull",
    "push",
    "verify",
]


def plan(
    model: str | Path | PlanRequest,
    *,
    tp: int = 1,
    target: str | None = None,
    quant: str = "none",
    max_batch: int = 8,
    instance_type: str | None = None,
) -> Plan:
    """Plan a build from config.json and headers. `model`: a name, a hub's id, a folder or an s3:// prefix.

    Raises RefusedError (with what fits), SourceError, UsageError.
    """
    from compiler.pipeline.located import plan_of
    from compiler.pipeline.request import PlanRequest

    if isinstance(model, PlanRequest):
        return plan_of(model)
    import recipes
    from compiler.targets import DEFAULT

    ask = _ask(tp, target, quant, max_batch, instance_type)
    return plan_of(
        PlanRequest(model=str(model), recipes=recipes, ask=ask, target=target or DEFAULT, instance_type=instance_type)
    )


def build(
    model: str | Path | BuildRequest,
    output: str | Path = "",
    *,
    tp: int = 1,
    target: str | None = None,
    quant: str = "none",
    max_batch: int = 8,
    instance_type: str | None = None,
    report: Report | None = None,
) -> BuildResult:
    """Build a verified artifact in the folder `output`. `report`: receiver of the progress.

    Raises LmiCompileError: RefusedError before anything is made, NumericsError for a gate that does not pass.
    """
    from compiler.pipeline.build import build as run
    from compiler.pipeline.request import BuildRequest

    if isinstance(model, BuildRequest):
        return run(model, report)
    import recipes
    from compiler.targets import DEFAULT

    request = BuildRequest(
        model=str(model), recipes=recipes, ask=_ask(tp, target, quant, max_batch, instance_type),
        target=target or DEFAULT, instance_type=instance_type, output=Path(output),
    )  # fmt: skip
    return run(request, report)


def open_artifact(folder: str | Path) -> Manifest:
    """Manifest of an artifact. Raises ArtifactError."""
    from compiler.artifact.manifest import load_manifest

    return load_manifest(Path(folder))


def verify(folder: str | Path, *, max_memory: int = 1 << 30) -> Manifest:
    """Check digests, layout and logits (float32 [tokens, vocab]); the manifest with measured `numerics`.

    `max_memory`: ceiling of a judge, in bytes. Raises ArtifactError, NumericsError, IncompatibleError, RankError.
    """
    from compiler.numerics.verify import verify as run

    return run(Path(folder), max_memory=max_memory)


def generate(folder: str | Path, prompt: str, *, max_new_tokens: int = 64, temperature: float = 0.0) -> str:
    """Load an artifact, answer one prompt, unload it. For more prompts: `load`.

    Raises IncompatibleError (nothing runs it here), ArtifactError, RankError.
    """
    from compiler.runtime.params import GenerationParams
    from compiler.targets.runners import Runner, runner_of

    place = Path(folder)
    params = GenerationParams(max_new_tokens=max_new_tokens, temperature=temperature)
    (found,), _ = (runner_of(open_artifact(place)) or Runner()).answers(place, [prompt], params)
    return found.text


def push(folder: str | Path, uri: str, report: Report | None = None) -> Pushed:
    """Publish an artifact to a store, `STORE/` or `STORE/NAME@TAG`. Raises StoreError, RefusedError, UsageError."""
    from compiler.registry.push import push as run

    return run(Path(folder), uri, report)


def pull(uri: str, folder: str | Path, report: Report | None = None) -> Pulled:
    """Fetch the missing and changed files of `STORE/NAME@TAG`. Raises StoreError, NotFoundError, ArtifactError."""
    from compiler.registry.pull import pull as run

    return run(uri, Path(folder), report)


def prewarm(source: str | Path, folder: str | Path, report: Report | None = None) -> Prewarmed:
    """Fetch, verify and load an artifact and let it answer once, without a compiler.

    Raises UnprovenError where nothing here runs it; IncompatibleError, ArtifactError, RankError, StoreError.
    """
    from compiler.deploy.prewarm import prewarm as run

    return run(str(source), Path(folder), report)


def _ask(tp: int, target: str | None, quant: str, max_batch: int, instance_type: str | None) -> Ask:
    from compiler import targets
    from compiler.errors import UsageError
    from compiler.pipeline.request import Ask
    from compiler.quantization.request import NONE, Quant
    from compiler.quantization.schemes import SCHEMES

    if quant != "none" and quant not in SCHEMES:
        raise UsageError(f"`quant` is none, {', '.join(SCHEMES)}; found `{quant}`", hint="leave it out for none")
    options = targets.options_of(target or targets.DEFAULT)().on_instance(instance_type)
    return Ask(tp=tp, max_batch=max_batch, options=options, quant=NONE if quant == "none" else Quant(SCHEMES[quant]))


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `compiler.api` has no attribute `{name}`")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
