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


@dataclass(frozen=True)
class TargetOptions:
    """What is asked of a toolchain beyond tp. A target refuses in `check` what it does not know.

    `version`: of the toolchain ("" = the target's default). `pp`: pipeline stages, each of tp ranks. `moe_ep`: to how
    many groups of the tp ranks the experts are dealt. `parallel_embedding`: the embedding is split over the vocabulary.
    `quant_algo`, `kv_cache_quant_algo`: by the toolchain's own names ("" = none).
    """

    version: str = ""
    pp: int = 1
    moe_ep: int = 1
    parallel_embedding: bool = False
    quant_algo: str = ""
    kv_cache_quant_algo: str = ""


PLAIN = TargetOptions()


class Target(Protocol):
    """What `stages/` ask of a toolchain's folder."""

    name: str

    def check(self, config: ModelConfig, tp: int = 1, options: TargetOptions = PLAIN) -> None:
        """Raises RefusedError for mathematics, or options, that this toolchain cannot do, with the reason."""

    def layouts(self, config: ModelConfig, tp: int, options: TargetOptions = PLAIN) -> Sequence[Layout]:
        """Every file tensor of a rank, in file order, stage by stage."""

    def rank_plans(
        self,
        config: ModelConfig,
        tp: int,
        tensors: Mapping[TensorId, Lazy],
        dtype: str,
        options: TargetOptions = PLAIN,
    ) -> Sequence[RankPlan]:
        """The files of the ranks, tp x pp of them."""

    def files(self, config: ModelConfig, tp: int, dtype: str, options: TargetOptions = PLAIN) -> Mapping[str, bytes]:
        """Small files that the toolchain wants beside those of the ranks; `dtype` by torch's name."""

    def specs(self, config: ModelConfig, tp: int, dtype: str, limits: Limits) -> Sequence[Any]:
        """What is to be compiled: one spec a package (see stages/compile.py)."""

    def segment_names(self, kind: LayerKind) -> tuple[str, str]:
        """The two segments that compute a layer of this kind."""

    def needs(self, config: ModelConfig, tp: int = 1, options: TargetOptions = PLAIN) -> Sequence[Need]:
        """What compiling takes."""


def available() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg))


def load(name: str) -> Target:
    """The target in the folder of that name."""
    if name not in available():
        raise UsageError(f"no target is called `{name}`", hint=f"Targets: {', '.join(available())}.")
    return cast("Target", importlib.import_module(f"compiler.targets.{name}"))
