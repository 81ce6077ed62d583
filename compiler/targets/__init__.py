"""Toolchains that artifacts are built with, one folder each. Deleting the folder deletes the target.

    protocols.py      parts of a target; values.py: their arguments and results; runners.py: running its artifacts
    options.py        base class of targets' options
    process.py        a toolchain's command as a process; guard.py: its end with ours
    TARGET/           options.py, section.py (its section of the manifest) and target.py (its `TARGET`)

Steps of a build and the parts that they use:

    plan              support (models and schemes), layout (rank files), compiler (memory and disk)
    convert           layout: rank files, and small files in their folder
    gate, judge       layout: kernels or judge that compute the rank files
    compile           compiler: specs, compiled by the toolchain and cached one by one
    package           packager: contents of the artifact, and its section of the manifest
    verify            packager: problems; runtime: runner that computes logits
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, cast

from compiler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.artifact.manifest import Manifest
    from compiler.targets.options import TargetOptions
    from compiler.targets.protocols import Target


DEFAULT = "inductor"
"""Default of `--target`."""


def available() -> tuple[str, ...]:
    """Names of the targets that are installed, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg))


def load(name: str) -> Target[Any]:
    """Target in the folder `name`. Raises UsageError."""
    return cast("Target[Any]", _module(name, "target").TARGET)


def options_of(name: str) -> type[TargetOptions]:
    """Class of a target's options; imports nothing else of the target. Raises UsageError."""
    return cast("type[TargetOptions]", _module(name, "options").OPTIONS)


def expected(manifest: Manifest) -> Sequence[tuple[str, str]]:
    """Labels and values of a run here that need no measurement; none where the artifact's target is not installed."""
    return load(manifest.target).runtime.expected(manifest) if manifest.target in available() else ()


def _module(name: str, part: str) -> Any:
    if name not in available():
        raise UsageError(f"no target is called `{name}`", hint=f"targets: {', '.join(available())}")
    return importlib.import_module(f"compiler.targets.{name}.{part}")
