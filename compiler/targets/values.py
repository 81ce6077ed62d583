"""Values that pass between the steps of a build and the parts of a target."""

from __future__ import annotations

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

O_co = TypeVar("O_co", bound=TargetOptions, covariant=True)

TREE: tuple[str, ...] = ("**",)
"""`Spec.outputs` of a result whose files are unknown beforehand: everything below out/<spec.name>/."""


@dataclass(frozen=True)
class Need:
    """Bytes that one stage needs: of memory (its processes together), of disk (written)."""

    stage: str
    memory: int
    disk: int
    note: str


@dataclass(frozen=True)
class How:
    """How to compile. None: the target's default; a target refuses what has no meaning for it.

    `device`: kind of device to compile for ("cpu", "cuda", or a kind of the target's own); `march`: its CPU level.
    `jobs`: compile processes at a time. `timeout`: seconds for one of them.
    """

    device: str | None = None
    march: str | None = None
    jobs: int | None = None
    timeout: float | None = None


@dataclass(frozen=True)
class Finding:
    """One line about a machine. `state`: "ok", "missing", "mismatch" or "note"; `remedy`: what to do unless it is ok.

    `kind`: what resolves a mismatch, another machine or more room on this one.
    """

    subject: str
    state: Literal["ok", "missing", "mismatch", "note"]
    text: str
    remedy: str = ""
    kind: Literal["machine", "room"] = "machine"


@dataclass(frozen=True)
class Ability:
    """Whether `target` can be built (`compiles`) and run (`runs`) on this machine; `why` where not."""

    target: str
    compiles: bool
    runs: bool
    why: str = ""


class Planned(Protocol[O_co]):
    """The fields of a plan that targets read, also where the plan was read back from a manifest."""

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
    """A plan with its rank files; () for a target that takes the checkpoint as it is."""

    @property
    def ranks(self) -> Sequence[RankPlan]: ...


class Spec(Protocol):
    """One thing to compile and to cache.

    `to_json`: everything that decides it besides toolchain and device. `outputs`: files that compiling leaves in the
    output folder, by name, or TREE.
    """

    @property
    def name(self) -> str: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...
    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Sources:
    """Files that a toolchain may read. `checkpoint`: folder of the rank files and the small files beside them; of the
    model itself where the target has no rank files. `tokenizer`: files below tokenizer/, with the model's config.json.
    """

    checkpoint: Path
    tokenizer: Sequence[Part] = ()


class Toolchain(Protocol):
    """The compiler of a target, or a stand-in of the tests (`stand_in`)."""

    stand_in: bool

    def versions(self, device: str) -> dict[str, str]:
        """Exact versions of everything that decides the bytes of compiled files. Raises ToolchainMissing."""

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

        `progress(done, total)` is called as work gets done; files in `out` itself are whole. Raises CompileError.
        """


class Judge(Protocol):
    """Rank files, computed as the toolchain would: a part of a layer at a time, float32.

    States: one array [tokens, hidden] per rank, or a single one where all ranks hold the same. Methods raise
    ArtifactError.
    """

    def embed(self, token_ids: NDArray[np.int64], /) -> list[NDArray[np.float32]]: ...
    def attn(self, layer: int, x: list[NDArray[np.float32]], /) -> list[NDArray[np.float32]]:
        """The output of attention, to be added to `x`."""

    def mlp(self, layer: int, x: list[NDArray[np.float32]], /) -> list[NDArray[np.float32]]:
        """The output of the mlp, to be added to `x`: the layer's input if parallel with attention, else the state
        after attention.
        """

    def head(self, x: list[NDArray[np.float32]], /) -> NDArray[np.float32]:
        """[tokens, vocab]"""

    def logits(self, token_ids: NDArray[np.int64], /) -> NDArray[np.float32]:
        """The whole model: [tokens] to [tokens, vocab]. A tensor that no part reads is an error too."""


@dataclass(frozen=True)
class Made:
    """Results of the steps before packaging. `weights`: rank files, and the small files beside them; `compiled`: the
    outputs of each spec by its name, empty where nothing was compiled yet; `tokenizer`: files below tokenizer/.
    """

    weights: Sequence[Part]
    compiled: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    tokenizer: Sequence[Part] = ()


@dataclass(frozen=True)
class Contents:
    """An artifact but for its manifest and its reference logits. `section`: the target's section of the manifest.

    `repeatable`: its logits can be computed from these parts, so that the reference belongs to them. `toolchain`:
    versions that only the compiled files tell; `capability`: of the GPU of another machine, where that built them.
    """

    parts: Sequence[Part]
    section: Section
    repeatable: bool = True
    toolchain: Mapping[str, str] = field(default_factory=dict)
    capability: str | None = None
    stand_in: bool = False


class Elsewhere(Protocol):
    """Work that another machine finishes: a command file is left with what it needs, and its result comes back."""

    def delegates(self, options: Any) -> bool:
        """Whether an image alone can compile, from the source itself."""

    def delegated(self, config: ModelConfig, tp: int, dtype: str, limits: Limits, options: Any, model: str) -> Contents:
        """The command file for that image. `model`: an id, an s3:// prefix or a folder. Raises RefusedError."""

    def finished(
        self, manifest: Manifest, plan: Planned[Any], files: Sequence[Part], folder: Path, made: Path | None
    ) -> Contents:
        """The artifact of `manifest`, its `files` in `folder`, with the result made elsewhere that lies in `made`
        (None: where its command file leaves it). Raises ArtifactError.
        """
