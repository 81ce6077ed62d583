"""Parts of a target.

Each part is a small class whose methods have default bodies: a target overrides what it has and leaves out the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from compiler.errors import RefusedError, UsageError
from compiler.targets.options import TargetOptions
from compiler.targets.values import Contents, Made

if TYPE_CHECKING:
    from compiler.artifact.manifest import Device, Manifest
    from compiler.decoder.kernels import Kernels
    from compiler.machine import Host
    from compiler.model.config import ModelConfig
    from compiler.model.layout import Layout
    from compiler.model.lazy import Lazy, RankPlan
    from compiler.model.limits import Limits
    from compiler.model.parallel import HeadLayout
    from compiler.model.roles import TensorId
    from compiler.quantization.request import Quant
    from compiler.quantization.scaling import Scaling
    from compiler.targets.runners import Runner
    from compiler.targets.values import (
        Ability,
        Elsewhere,
        Finding,
        How,
        Judge,
        Need,
        Planned,
        PlannedRanks,
        Spec,
        Toolchain,
    )

O = TypeVar("O", bound=TargetOptions)


class Support(Generic[O]):
    """Which models a target takes, and quantized how."""

    def check(self, config: ModelConfig, tp: int, options: O, limits: Limits | None = None) -> None:
        """Raises RefusedError for mathematics, options or limits that the toolchain cannot do, with the reason."""

    def quantized(self, config: ModelConfig, quant: Quant, options: O) -> tuple[Quant, O]:
        """`quant` (which asks for something) with the flags that the toolchain runs, and `options` with their derived
        fields set to the toolchain's own names.

        Raises RefusedError for a scheme that the toolchain does not run, naming those that it does.
        """
        raise RefusedError(
            f"{config.architecture} is not quantized for this target", hint="leave `--quant` and `--kv-cache` out"
        )

    def scaling(self, config: ModelConfig, quant: Quant, options: O) -> Scaling:
        """Scales that the kernels need, for the result of `quantized`."""
        from compiler.quantization.scaling import Scaling
        from compiler.quantization.schemes import UNQUANTIZED

        return Scaling(quant.scheme or UNQUANTIZED, cache=quant.cache)


class RankLayout(Generic[O]):
    """Rank files: what each rank holds, and how a rank file is computed without the toolchain."""

    judge: Callable[[Path, ModelConfig, int], Judge] | None = None
    """Folder of rank files, model, ceiling of memory in bytes -> the judge. None: only compiled files can be run."""
    kernels: Callable[[O], Kernels] | None = None
    """How the decoder computes the rank files, in plain torch. None: the judge is asked instead."""

    def heads(self, config: ModelConfig, tp: int) -> HeadLayout:
        """Heads of a rank; a toolchain may pad the query heads. Raises ParallelError."""
        from compiler.model.parallel import head_layout

        return head_layout(config.heads, config.kv_heads, tp)

    def layouts(self, config: ModelConfig, tp: int, options: O) -> Sequence[Layout]:
        """Every file tensor of a rank, in file order, pipeline stage by pipeline stage."""
        return ()

    def rank_plans(
        self, config: ModelConfig, tp: int, tensors: Mapping[TensorId, Lazy], dtype: str, options: O
    ) -> Sequence[RankPlan]:
        """The files of the ranks, tp for each pipeline stage; `dtype` by its safetensors name.

        `tensors` of a quantized model has the tensors that `quantization/scale_tensors.py` adds.
        """
        return ()

    def files(self, config: ModelConfig, tp: int, dtype: str, options: O) -> Mapping[str, bytes]:
        """Small files that the toolchain reads beside those of the ranks; `dtype` by torch's name."""
        return {}


class Compiler(Generic[O]):
    """Planning and running the toolchain."""

    def toolchain(self) -> Toolchain:
        """The real toolchain. Loading it imports no package of the vendor yet."""
        raise UsageError("this target compiles nothing", hint="build with `--until convert`")

    def device(self, how: How) -> Device:
        """The device that files compiled here, `how`, will run on. Raises UsageError."""
        from compiler.artifact.manifest import Device

        return Device(kind=how.device or "cpu")

    def needs(self, config: ModelConfig, tp: int, options: O) -> Sequence[Need]:
        """Memory and disk of judging and compiling."""
        return ()

    def specs(self, plan: PlannedRanks[O], source: str) -> Sequence[Spec]:
        """Everything to compile. `source`: digest of the model's source, for specs that depend on its weights."""
        return ()

    def command(self, plan: Planned[O]) -> Sequence[str]:
        """The command line that compiles, run in the artifact's folder; () where there is none."""
        return ()


class Packager(Generic[O]):
    """Artifacts of a target: their files, and their section of the manifest."""

    elsewhere: Elsewhere | None = None
    """None: a build that is begun on a machine is finished there."""

    def contents(self, plan: Planned[O], made: Made) -> Contents:
        """Which file goes where in the artifact."""
        from compiler.artifact.sections import Section

        compiled = [part for parts in made.compiled.values() for part in parts]
        return Contents([*made.weights, *compiled, *made.tokenizer], Section())

    def check_tokenizer(self, plan: Planned[O], names: Sequence[str]) -> None:
        """Raises TokenizerError where the server of the artifact needs other files of the tokenizer than `names`."""

    def options_of(self, manifest: Manifest) -> O:
        """The options that an artifact was built with. Raises ArtifactError."""
        from compiler.targets import options_of

        return options_of(manifest.target)()  # type: ignore[return-value]  # the class that belongs to this target

    def rank_folder(self, manifest: Manifest) -> str | None:
        """Folder of the plan's rank files in the artifact ("" = its root); None: it holds none."""
        return "" if manifest.section.rank_files else None

    def problems(self, manifest: Manifest, folder: Path) -> Sequence[str]:
        """Everything wrong with the artifact in `folder` besides digests and rank files, one line each."""
        return ()


class Runtime:
    """Where the artifacts of a target run: this machine, and images."""

    def runner(self, manifest: Manifest, max_memory: int) -> Runner | None:
        """What runs the artifact here, in at most `max_memory` bytes of buffers; None: nothing does."""
        return None

    def unproven(self, manifest: Manifest) -> str:
        """Why this machine cannot prove that the artifact answers; "" where the runner's `once` proves it."""
        return "nothing on this machine runs it"

    def findings(self, manifest: Manifest, host: Host) -> Sequence[Finding]:
        """Comparison of the artifact with a machine beyond GPUs, memory and disk."""
        return ()

    def endpoint_problems(self, manifest: Manifest, image: str, instance_type: str) -> Sequence[str]:
        """Why the container `image` (tag or whole name) cannot serve the artifact, and the instance type not a kind of
        device that only the target knows.
        """
        return ()

    def doctor(self) -> tuple[Sequence[Finding], Sequence[Ability]]:
        """The toolchain on this machine, with the vendor's install line, and what can be built and run here."""
        return (), ()


@dataclass(frozen=True, kw_only=True)
class Target(Generic[O]):
    """A toolchain as its parts. `layout` None: no rank files, the target takes the checkpoint as it is."""

    name: str
    options: type[O]
    support: Support[O]
    layout: RankLayout[O] | None
    compiler: Compiler[O]
    packager: Packager[O]
    runtime: Runtime


def stages_of(target: Target[Any]) -> tuple[str, ...]:
    """Stages of a build for `target` in order, as `--until` takes them."""
    files = ("convert",) if target.layout is not None else ()
    judge = ("judge",) if target.layout is not None and target.layout.judge is not None else ()
    return ("plan", *files, *judge, "compile", "package", "verify")
