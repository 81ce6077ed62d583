"""Toolchains that artifacts are built with, one folder each. Deleting the folder deletes the target.

    protocols.py      parts of a target; values.py: what passes through them; runners.py: running its artifacts
    options.py        base of every target's options
    TARGET/           options.py, section.py (its section of the manifest) and target.py (its `TARGET`)

Steps of a build and the parts that they ask:

    plan              support (is the model supported, quantized or not), layout (rank files), compiler (needs)
    convert           the rank files of the plan, and the layout's small files beside them
    gate, judge       the layout's kernels or judge over the rank files
    compile           the compiler's specs, each by its toolchain, each cached
    package           the packager's contents: which file goes where, and the section of the manifest
    verify            the packager's problems, and logits by the runtime's runner
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, cast

from compiler.errors import UsageError

if TYPE_CHECKING:
    from compiler.targets.options import TargetOptions
    from compiler.targets.protocols import Target


DEFAULT = "inductor"
"""The target of a build that names none."""


def available() -> tuple[str, ...]:
    """Names of the targets that are installed, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg))


def load(name: str) -> Target[Any]:
    """The target in the folder `name`. Raises UsageError."""
    return cast("Target[Any]", _module(name, "target").TARGET)


def options_of(name: str) -> type[TargetOptions]:
    """The class of a target's options; imports nothing else of the target. Raises UsageError."""
    return cast("type[TargetOptions]", _module(name, "options").OPTIONS)


def _module(name: str, part: str) -> Any:
    if name not in available():
        raise UsageError(f"no target is called `{name}`", hint=f"Targets: {', '.join(available())}.")
    return importlib.import_module(f"compiler.targets.{name}.{part}")
