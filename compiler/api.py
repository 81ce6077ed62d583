"""Python API of lmi-compile:

    import recipes
    from compiler import api

    api.build(api.BuildRequest(model="llama3.2-1b", recipes=recipes, ask=api.Ask(tp=2), output=Path("artifact")))
    with api.load("artifact") as model:
        print(model.generate(["Once upon a time"], api.GenerationParams(max_new_tokens=40))[0].text)

Names are imported on first use: importing this module alone loads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.artifact.manifest import Manifest, load_manifest
    from compiler.errors import LmiCompileError
    from compiler.numerics.verify import verify
    from compiler.pipeline.build import build
    from compiler.pipeline.job import BuildResult
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.request import Ask, BuildRequest, PlanRequest, Resources
    from compiler.pipeline.resolve import plan_of
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
    "build": "compiler.pipeline.build",
    "load": "compiler.runtime.generate",
    "load_manifest": "compiler.artifact.manifest",
    "plan_of": "compiler.pipeline.resolve",
    "verify": "compiler.numerics.verify",
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
    "load",
    "load_manifest",
    "plan_of",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `compiler.api` has no attribute `{name}`")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
