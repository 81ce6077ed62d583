"""Values that pass between the steps of a build and the parts of a target."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from compiler.targets.options import TargetOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Device, Manifest
    from compiler.artifact.parts import Part
    from compiler.artifact.sections import Section
    from compiler.model.config import ModelConfig
    from compiler.model.lazy import RankPlan
    from compiler.model.limits import Limits
    from compiler.storage.cache.stages import StageCache

O_co = TypeVar("O_co", bound=TargetOptions, covariant=True)

TREE: tuple[str, ...] = ("**",)
"""`Spec.outputs` of files whose names are unknown beforehand: everything below out/<spec.name>/."""


@dataclass(frozen=True)
class Need:
    """Memory (of all its processes) and disk (written) that a stage needs, in bytes."""

    stage: str
    memory: int
    disk: int
    note: str


@dataclass(frozen=True)
class How:
    """Options of compilation. None: the target's default; a target refuses options that do not apply to it.

    `device`: kind of device to compile for ("cpu", "cuda", or a kind of the target's own); `march`: CPU
    instruction-set level. `jobs`: number of parallel compile processes. `timeout`: seconds for one of them.
    """

    device: str | None = None
    march: str | None = None
    jobs: int | None = None
    timeout: float | None = None


@dataclass(frozen=True)
class Finding:
    """One line about a machine. `remedy`: what to do unless `state` is "ok".

    `kind`: whether a mismatch needs another machine, or more memory or disk on this one ("room").
    """

    subject: str
    state: Literal["ok", "missing", "mismatch", "note"]
    text: str
    remedy: str = ""
    kind: Literal["machine", "room"] = "machine"


@dataclass(frozen=True)
class Migration:
    """Build that replaces another artifact. `argv`: its command line; `properties`: further ones for its
    serving.properties; `mapped`, `dropped`: lines on each property of the old file, the latter with reasons.
    """

    argv: tuple[str, ...]
    properties: Mapping[str, str]
    mapped: tuple[str, ...]
    dropped: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def command(self) -> str:
        """Command line as text."""
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Ability:
    """Whether this machine can build (`compiles`) and run (`runs`) artifacts of `target`; `why`: reason if not. `mend`:
    the one command after which it builds; "" where it does already, or needs another machine.
    """

    target: str
    compiles: bool
    runs: bool
    why: str = ""
    mend: str = ""


class Planned(Protocol[O_co]):
    """Fields of a plan that targets read, from a build or from a manifest."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def tp(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def options(self) -> O_co: ...
    @property
    def digest(self) -> str: ...


class PlannedRanks(Planned[O_co], Protocol[O_co]):
    """A plan with its rank files; () for a target without a layout."""

    @property
    def ranks(self) -> Sequence[RankPlan]: ...


class Spec(Protocol):
    """Input of one compilation, which is cached.

    `to_json`: its part of the cache key, besides toolchain and device. `outputs`: names of the files that compilation
    writes to the output folder, or TREE.
    """

    @property
    def name(self) -> str: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...
    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Sources:
    """Files that a toolchain may read. `checkpoint`: folder of the rank files and their small files, or of the model if
    the target has no rank files. `tokenizer`: files below tokenizer/, with the model's config.json. `cache`: where a
    toolchain keeps intermediate results by keys of their own; None: it makes them anew. `model`: folder of the source.
    """

    checkpoint: Path
    tokenizer: Sequence[Part] = ()
    cache: StageCache | None = None
    model: Path | None = None


class Toolchain(Protocol):
    """Compiler of a target, or a stand-in of the tests (`stand_in`)."""

    stand_in: bool

    def versions(self, device: str) -> dict[str, str]:
        """Exact versions of everything that the bytes of compiled files depend on. Raises ToolchainMissing."""

    def compile(
        self,
        specs: Sequence[Any],
        out: Path,
        how: How,
        *,
        device: Device,
        sources: Sources,
        progress: Callable[[int, int], None],
    ) -> None:
        """Write the `outputs` of each spec into the folder `out`.

        `progress` takes (done, total). Files in `out` itself are always complete. Raises CompileError.
        """


class Judge(Protocol):
    """Forward pass over rank files with the toolchain's semantics, one part of a layer at a time, in float32.

    States: one array [tokens, hidden] per rank, or a single one if all ranks have the same; of several rows of equal
    length [rows, tokens, hidden]. Methods raise ArtifactError.
    """

    def embed(self, token_ids: NDArray[np.int64], /) -> list[NDArray[np.float32]]: ...
    def attn(self, layer: int, x: list[NDArray[np.float32]], /) -> list[NDArray[np.float32]]:
        """Output of attention, to be added to `x`."""

    def mlp(self, layer: int, x: list[NDArray[np.float32]], /) -> list[NDArray[np.float32]]:
        """Output of the mlp, to be added to `x`: the layer's input if parallel with attention, else the state after
        attention.
        """

    def head(self, x: list[NDArray[np.float32]], /) -> NDArray[np.float32]:
        """Logits [..., tokens, vocab]."""

    def logits(self, token_ids: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Logits of the whole model: [tokens] to [tokens, vocab]. A tensor that no part reads is an error."""


@dataclass(frozen=True)
class Made:
    """Results of the steps before packaging. `weights`: rank files and their small files; `compiled`: outputs of each
    spec by name, {} if nothing is compiled yet; `tokenizer`: files below tokenizer/.
    """

    weights: Sequence[Part]
    compiled: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    tokenizer: Sequence[Part] = ()


@dataclass(frozen=True)
class Contents:
    """Files of an artifact, except manifest and reference logits, and the target's section of the manifest.

    `repeatable`: logits can be computed from these parts, so that reference logits are added. `toolchain`: versions
    that are read from the compiled files; `capability`: compute capability if another machine's GPU built them.
    """

    parts: Sequence[Part]
    section: Section
    repeatable: bool = True
    toolchain: Mapping[str, str] = field(default_factory=dict)
    capability: str | None = None
    stand_in: bool = False


class Elsewhere(Protocol):
    """Completion of a build on another machine: the artifact has a command file, whose result is packaged later."""

    def delegates(self, options: Any) -> bool:
        """Whether only a container image can compile, from the source model itself."""

    def delegated(self, config: ModelConfig, tp: int, dtype: str, limits: Limits, options: Any, model: str) -> Contents:
        """Command file for that image. `model`: an id, an s3:// prefix or a folder. Raises RefusedError."""

    def finished(
        self, manifest: Manifest, plan: Planned[Any], files: Sequence[Part], folder: Path, made: Path | None
    ) -> Contents:
        """Artifact of `manifest`, with `files` in `folder`, completed by the result in the folder `made` (None: the
        folder that the command file writes to). Raises ArtifactError.
        """
