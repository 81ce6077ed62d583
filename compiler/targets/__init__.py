"""A target is a folder: `layout.py` (pure) and `build.py` (the one file that touches the toolchain).

The folder's `__init__` defines the functions of `Target`. Deleting the folder deletes the target.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from compiler.errors import UsageError
from compiler.ir.config import LayerKind, ModelConfig
from compiler.ir.layout import Layout
from compiler.ir.lazy import Lazy, RankPlan
from compiler.ir.limits import Limits
from compiler.ir.roles import TensorId


@dataclass(frozen=True)
class Need:
    """Bytes that one stage needs: of memory (its processes together), of disk (written)."""

    stage: str
    memory: int
    disk: int
    note: str


class Target(Protocol):
    """What `stages/` ask of a toolchain's folder."""

    name: str

    def check(self, config: ModelConfig) -> None:
        """Raises RefusedError for mathematics that this toolchain cannot do, with the reason."""

    def layouts(self, config: ModelConfig, tp: int) -> Sequence[Layout]:
        """Every file tensor of a rank, in file order."""

    def rank_plans(
        self, config: ModelConfig, tp: int, tensors: Mapping[TensorId, Lazy], dtype: str
    ) -> Sequence[RankPlan]:
        """The files of the ranks."""

    def specs(self, config: ModelConfig, tp: int, dtype: str, limits: Limits) -> Sequence[Any]:
        """What is to be compiled: one spec a package (see stages/compile.py)."""

    def segment_names(self, kind: LayerKind) -> tuple[str, str]:
        """The two segments that compute a layer of this kind."""

    def needs(self, config: ModelConfig) -> Sequence[Need]:
        """What compiling takes."""


def available() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg))


def load(name: str) -> Target:
    """The target in the folder of that name."""
    if name not in available():
        raise UsageError(f"no target is called `{name}`", hint=f"Targets: {', '.join(available())}.")
    return cast("Target", importlib.import_module(f"compiler.targets.{name}"))
