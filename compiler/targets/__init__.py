"""A target is a folder: `layout.py` (pure) and `build.py` (the one file that touches the toolchain).

The folder's `__init__` defines the functions of `Target`. Deleting the folder deletes the target.

    plan                 quantised, scaling, check, layouts, rank_plans, files, needs
    convert              the rank files of the plan, and `files` beside them
    gate                 of quantised files: what they compute by `kernels`, or by `logits`
    judge                where the target has `logits`: those of these files, before any toolchain has seen them
    compile              `specs`, each by the `Toolchain` of build.py, each cached
    package              `contents`: which file goes where, and the section of the manifest
    verify               `problems`, and logits again
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from compiler.errors import UsageError
from compiler.model.config import ModelConfig
from compiler.model.layout import Layout
from compiler.model.lazy import Lazy, RankPlan
from compiler.model.limits import Limits
from compiler.model.roles import TensorId

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Device, Manifest
    from compiler.artifact.parts import Part
    from compiler.artifact.sections import Engines, Segments
    from compiler.decoder.kernels import Kernels
    from compiler.quantization.request import Quant
    from compiler.quantization.scaling import Scaling


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

    `version`: of the toolchain, `image`: of the serving container ("" = the target's default). `pp`: pipeline stages,
    each of tp ranks. `moe_ep`: to how many groups of the tp ranks the experts are dealt. `parallel_embedding`: the
    embedding is split over the vocabulary. `quant_algo`, `kv_cache_quant_algo`: by the toolchain's own names ("" =
    none), as `Target.quantised` gives them. `max_input_len`: tokens of a prompt; `max_num_tokens`: of all rows in one
    step (None = the target's default).
    """

    version: str = ""
    image: str = ""
    pp: int = 1
    moe_ep: int = 1
    parallel_embedding: bool = False
    quant_algo: str = ""
    kv_cache_quant_algo: str = ""
    max_input_len: int | None = None
    max_num_tokens: int | None = None


PLAIN = TargetOptions()


@dataclass(frozen=True)
class How:
    """How to compile. None: as the target does by default; a target refuses what means nothing to it.

    `device`, `march`: what the result runs on. `jobs`: compile processes at a time. `timeout`: seconds for one of them.
    """

    device: Literal["cpu", "cuda"] | None = None
    march: str | None = None
    jobs: int | None = None
    timeout: float | None = None


class Planned(Protocol):
    """What a target reads of a plan."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def tp(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def options(self) -> TargetOptions: ...
    @property
    def digest(self) -> str: ...


class PlannedRanks(Planned, Protocol):
    """The same, with the rank files."""

    @property
    def ranks(self) -> Sequence[RankPlan]: ...


class Spec(Protocol):
    """One thing to compile and to cache. `to_json`: all that decides it besides toolchain and device. `outputs`: the
    files that compiling it leaves.
    """

    @property
    def name(self) -> str: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...
    def to_json(self) -> dict[str, Any]: ...


class Toolchain(Protocol):
    """The compiler of a target: the module `targets/<name>/build.py`, or a stand-in of the tests."""

    stand_in: bool

    def versions(self, device: str) -> dict[str, str]:
        """Exact versions of all that decides the bytes of what is compiled. Raises ToolchainMissing."""

    def compile(
        self,
        specs: Sequence[Any],
        out: Path,
        how: How,
        *,
        device: Device,
        checkpoint: Path,
        progress: Callable[[int, int], None],
    ) -> None:
        """The `outputs` of each spec into the folder `out`; `checkpoint` has the rank files.

        `progress(done, of)` is called as work gets done; files in `out` itself are whole. Raises CompileError.
        """


class Judge(Protocol):
    """Rank files, computed as the toolchain would: a part of a layer at a time, float32.

    States: what the ranks hold, [tokens, hidden] of each, or once where all hold the same. Methods raise ArtifactError.
    """

    def embed(self, token_ids: NDArray[np.int64], /) -> list[NDArray[np.float32]]: ...
    def attn(self, layer: int, x: list[NDArray[np.float32]], /) -> list[NDArray[np.float32]]:
        """What attention adds to `x`."""

    def mlp(self, layer: int, x: list[NDArray[np.float32]], /) -> list[NDArray[np.float32]]:
        """What the mlp adds to `x`: in parallel with attention the input of the layer, else what is behind it."""

    def head(self, x: list[NDArray[np.float32]], /) -> NDArray[np.float32]:
        """[tokens, vocab]"""

    def logits(self, token_ids: NDArray[np.int64], /) -> NDArray[np.float32]:
        """All of it: [tokens] to [tokens, vocab]. What no part asks for is an error too."""


@dataclass(frozen=True)
class Made:
    """What the stages before packaging made. `weights`: rank files, and the small files beside them; `compiled`: the
    outputs of each spec by its name, none where nothing was compiled yet; `tokenizer`: files below tokenizer/.
    """

    weights: Sequence[Part]
    compiled: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    tokenizer: Sequence[Part] = ()


@dataclass(frozen=True)
class Contents:
    """An artifact but for its manifest and its reference logits. `name`: of the manifest's field for `section`.

    `repeatable`: its logits can be computed from these parts, so that the reference belongs to them. `toolchain`:
    versions that only the compiled files tell; `capability`: of the GPU of another machine, where that built them.
    """

    parts: Sequence[Part]
    name: Literal["segments", "engines"]
    section: Segments | Engines
    repeatable: bool = True
    toolchain: Mapping[str, str] = field(default_factory=dict)
    capability: str | None = None
    stand_in: bool = False


class Elsewhere(Protocol):
    """Work that another machine finishes: a command file is left with what it needs, and its result comes back."""

    def delegates(self, options: TargetOptions) -> bool:
        """Whether an image alone can compile, from the source itself."""

    def delegated(
        self, config: ModelConfig, tp: int, dtype: str, limits: Limits, options: TargetOptions, model: str
    ) -> Contents:
        """What is left to do for that image with `model` (an id, an s3:// prefix or a folder). Raises RefusedError."""

    def finished(
        self, manifest: Manifest, plan: Planned, files: Sequence[Part], folder: Path, made: Path | None
    ) -> Contents:
        """The artifact of `manifest`, its `files` in `folder`, with what was made of it elsewhere and lies in `made`
        (None: where its command file leaves it). Raises ArtifactError.
        """


class Target(Protocol):
    """What the stages ask of a toolchain's folder. `stages`: what `--until` takes, in order. `judge_of`: a folder of
    rank files, the model and a ceiling of memory in bytes to what computes them; None: only what is compiled can be
    run. `kernels`: how the decoder computes its rank files, in plain torch; None: they have other names, and the judge
    is asked. `elsewhere` None: what is begun here is finished here.
    """

    name: str
    stages: tuple[str, ...]
    judge_of: Callable[[Path, ModelConfig, int], Judge] | None
    kernels: Callable[[TargetOptions], Kernels] | None
    elsewhere: Elsewhere | None

    def quantised(self, config: ModelConfig, quant: Quant, options: TargetOptions) -> tuple[Quant, TargetOptions]:
        """`quant` (which asks for something) with the flags that the toolchain runs, and `options` with it by the
        toolchain's own names.

        Raises RefusedError for what the toolchain does not run, naming what it does.
        """

    def scaling(self, config: ModelConfig, quant: Quant, options: TargetOptions) -> Scaling:
        """What its kernels want of scales, for what `quantised` gave."""

    def check(
        self, config: ModelConfig, tp: int = 1, options: TargetOptions = PLAIN, limits: Limits | None = None
    ) -> None:
        """Raises RefusedError for mathematics, options or limits that this toolchain cannot do, with the reason."""

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
        """The files of the ranks, tp x pp of them. Of a quantised model, `tensors` has what `quantization/planned.py` adds."""

    def files(self, config: ModelConfig, tp: int, dtype: str, options: TargetOptions = PLAIN) -> Mapping[str, bytes]:
        """Small files that the toolchain wants beside those of the ranks; `dtype` by torch's name."""

    def needs(self, config: ModelConfig, tp: int = 1, options: TargetOptions = PLAIN) -> Sequence[Need]:
        """What judging and compiling take."""

    def device(self, how: How) -> Device:
        """What is compiled here, `how`, will run on. Raises UsageError."""

    def check_tokenizer(self, plan: Planned, names: Sequence[str]) -> None:
        """Raises TokenizerError where what will serve the artifact needs other files than these of the tokenizer."""

    def command(self, plan: Planned) -> Sequence[str]:
        """The command line that compiles, run in the artifact's folder; () where there is none."""

    def specs(self, plan: PlannedRanks, source: str) -> Sequence[Spec]:
        """What is to be compiled. `source`: digest of the model's source, for what depends on its weights."""

    def contents(self, plan: Planned, made: Made) -> Contents:
        """Which file goes where in the artifact."""

    def options_of(self, manifest: Manifest) -> TargetOptions:
        """The options that an artifact was made with."""

    def rank_folder(self, manifest: Manifest) -> str | None:
        """Where in the artifact the rank files of the plan are ("" = at its root); None: it has none."""

    def problems(self, manifest: Manifest, folder: Path) -> Sequence[str]:
        """What is wrong with the artifact in `folder` besides digests and rank files, one line each."""


def available() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg))


def load(name: str) -> Target:
    """The target in the folder of that name."""
    if name not in available():
        raise UsageError(f"no target is called `{name}`", hint=f"Targets: {', '.join(available())}.")
    return cast("Target", importlib.import_module(f"compiler.targets.{name}"))


def toolchain_of(name: str) -> Toolchain:
    """The real toolchain of a target. Importing it imports no toolchain yet."""
    return cast("Toolchain", importlib.import_module(f"compiler.targets.{name}.build"))
