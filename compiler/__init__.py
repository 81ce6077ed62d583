"""lmi-compile: from a Hugging Face checkpoint to a compiled, sharded, verified artifact. The public names:

    import compiler, recipes

    compiler.build(
        compiler.BuildRequest(
            model="llama3.2-1b", recipes=recipes, ask=compiler.Ask(tp=2), output=Path("artifact")
        )
    )
    with compiler.load("artifact") as model:
        print(model.generate(["Once upon a time"], compiler.GenerationParams(max_new_tokens=40))[0].text)

Each is imported when it is first used: `import compiler` alone loads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from compiler.artifact.manifest import Manifest, load_manifest
    from compiler.errors import LmiCompileError
    from compiler.pipeline.build import BuildResult, build
    from compiler.pipeline.requests import BuildRequest, PlanRequest, prepare
    from compiler.runtime.generate import load
    from compiler.runtime.params import Completion, GenerationParams
    from compiler.stages.plan import Ask, Plan
    from compiler.stages.verify import verify

_HOME = {
    "Ask": "compiler.stages.plan",
    "BuildRequest": "compiler.pipeline.requests",
    "BuildResult": "compiler.pipeline.build",
    "Completion": "compiler.runtime.params",
    "GenerationParams": "compiler.runtime.params",
    "LmiCompileError": "compiler.errors",
    "Manifest": "compiler.artifact.manifest",
    "Plan": "compiler.stages.plan",
    "PlanRequest": "compiler.pipeline.requests",
    "build": "compiler.pipeline.build",
    "load": "compiler.runtime.generate",
    "load_manifest": "compiler.artifact.manifest",
    "prepare": "compiler.pipeline.requests",
    "verify": "compiler.stages.verify",
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
    "build",
    "load",
    "load_manifest",
    "prepare",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `compiler` has no attribute `{name}`")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
