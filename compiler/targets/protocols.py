"""Parts of a target: small classes whose methods have default bodies, of which a target overrides some."""

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
    from compiler.lmi.instance_table import Instance
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
        Migration,
        Need,
        Planned,
        PlannedRanks,
        Spec,
        Toolchain,
    )

O = TypeVar("O", bound=TargetOptions)


class Support(Generic[O]):
    """Models and quantization schemes that a target supports."""

    group_sizes: tuple[int, ...] = (128,)
    """Sizes of the groups of a weight's row that may share a scale, widest first."""

    def check(self, config: ModelConfig, tp: int, options: O, limits: Limits | None = None) -> None:
        """Raise RefusedError, with the reason, for mathematics, options or limits that the toolchain lacks."""

    def quantized(self, config: ModelConfig, quant: Quant, options: O) -> tuple[Quant, O]:
        """`quant` with the flags that the toolchain runs, and `options` with their derived fields set to its names.

        Raises RefusedError for a scheme that the toolchain does not run, naming those that it runs.
        """
        raise RefusedError(
            f"this target does not quantize {config.architecture}", hint="leave `--quant` and `--kv-cache` out"
        )

    def scaling(self, config: ModelConfig, quant: Quant, options: O) -> Scaling:
        """Scales that the kernels need, for the result of `quantized`."""
        from compiler.quantization.scaling import Scaling
        from compiler.quantization.schemes import UNQUANTIZED

        return Scaling(quant.scheme or UNQUANTIZED, cache=quant.cache)

    def fitting(self, plan: Planned[O], instance: Instance) -> str:
        """Hint at other requests of a plan that has no room on `instance`, for which it has; "" for none."""
        return ""

    def facts(self, plan: Planned[O]) -> Sequence[tuple[str, str]]:
        """Lines of a plan's text that only this target has: subject and text."""
        return ()

    def migration(self, source: Path) -> Migration:
        """Build that replaces `source`, an artifact of another target or a file that configures its server.

        Raises RefusedError where nothing is migrated to this target, UsageError, ArtifactError.
        """
        raise RefusedError("nothing is migrated to this target", hint="build the model with `lmi-compile build`")


class RankExtras(Generic[O]):
    """Tensors and small files of rank folders that come from no checkpoint."""

    def constants(self, config: ModelConfig, options: O) -> Mapping[str, tuple[tuple[int, ...], int]]:
        """Shape and value of the tensors of every rank file that come from no checkpoint, for the plan's digest."""
        return {}

    def files(self, config: ModelConfig, tp: int, dtype: str, options: O) -> Mapping[str, bytes]:
        """Small files that the toolchain reads from the folder of the rank files. `dtype`: torch's name."""
        return {}


class RankLayout(RankExtras[O]):
    """Rank files: their layout, and their forward pass without the toolchain."""

    judge: Callable[[Path, ModelConfig, int, ModelConfig | None], Judge] | None = None
    """Folder of rank files, model, memory limit in bytes, and the model with lowered limits (numerics/proof.py) that is
    to be computed instead, if any -> judge. None: only compiled files can be run.
    """
    kernels: Callable[[O], Kernels] | None = None
    """Kernels in plain torch with which the decoder computes the rank files. None: the judge computes them."""

    def heads(self, config: ModelConfig, tp: int, options: O) -> HeadLayout:
        """Heads of each rank; a toolchain may pad the query heads. Raises ParallelError."""
        from compiler.model.parallel import head_layout

        return head_layout(config.heads, config.kv_heads, tp)

    def copies(self, config: ModelConfig, options: O) -> str:
        """Reason why the files are those of the checkpoint itself, for `rank_plans` of tensors that keep their names
        (`model/unknown.py`); "" where they have a layout of the toolchain's own.
        """
        return ""

    def layouts(self, config: ModelConfig, tp: int, options: O) -> Sequence[Layout]:
        """All file tensors of a rank in file order, one pipeline stage after the other."""
        return ()

    def rank_plans(
        self, config: ModelConfig, tp: int, tensors: Mapping[TensorId, Lazy], dtype: str, options: O
    ) -> Sequence[RankPlan]:
        """Rank files, tp for each pipeline stage. `dtype`: a safetensors name. `tensors` of a quantized model include
        those of `quantization/scale_tensors.py`.
        """
        return ()


class Compiler(Generic[O]):
    """Compilation with the toolchain. `accelerators`: makers of the devices that artifacts run on; "": processors."""

    accelerators: tuple[str, ...] = ("NVIDIA", "")

    def toolchain(self) -> Toolchain:
        """The real toolchain. This imports no vendor package yet."""
        raise UsageError("this target compiles nothing", hint="build with `--until convert`")

    def device(self, how: How) -> Device:
        """Device that the files will run on. Raises UsageError."""
        from compiler.artifact.manifest import Device

        return Device(kind=how.device or "cpu")

    def needs(self, config: ModelConfig, tp: int, options: O) -> Sequence[Need]:
        """Memory and disk for judging and compiling."""
        return ()

    def specs(self, plan: PlannedRanks[O], source: str) -> Sequence[Spec]:
        """Specs to compile. `source`: digest of the model's source, for specs that depend on its weights."""
        return ()

    def command(self, plan: Planned[O]) -> Sequence[str]:
        """Command line that compiles, run in the artifact's folder; () for none."""
        return ()


class Packager(Generic[O]):
    """Artifacts of a target: their files, and their section of the manifest."""

    elsewhere: Elsewhere | None = None
    """Completion of a build on another machine. None: not supported."""

    def contents(self, plan: Planned[O], made: Made) -> Contents:
        """Files of the artifact with their paths, and its section of the manifest."""
        from compiler.artifact.sections import Section

        compiled = [part for parts in made.compiled.values() for part in parts]
        return Contents([*made.weights, *compiled, *made.tokenizer], Section())

    def check_tokenizer(self, plan: Planned[O], names: Sequence[str]) -> None:
        """Raise TokenizerError if the artifact's server needs other tokenizer files than `names`."""

    def transformers(self, options: O) -> str | None:
        """Version of transformers in the container that loads the tokenizer; None: this project's runtime loads it."""
        return None

    def options_of(self, manifest: Manifest) -> O:
        """Options that an artifact was built with. Raises ArtifactError."""
        from compiler.targets import options_of

        return options_of(manifest.target)()  # type: ignore[return-value]  # the class of this target

    def rank_folder(self, manifest: Manifest) -> str | None:
        """Folder of the plan's rank files in the artifact ("" = its root); None if it has none."""
        return "" if manifest.section.rank_files else None

    def problems(self, manifest: Manifest, folder: Path) -> Sequence[str]:
        """Faults of the artifact in `folder` besides those of digests and rank files, one line each."""
        return ()


class ServingContainer:
    """Containers that serve a target's artifacts."""

    def endpoint_problems(self, manifest: Manifest, image: str, instance_type: str) -> Sequence[str]:
        """Reasons why the container `image` (tag or full name) cannot serve the artifact, or why the instance type has
        no device of the target's own kind. By default, images that are known to serve another target.
        """
        from compiler.lmi.images import targets_of_image

        try:
            served = targets_of_image(image)
        except UsageError:
            return ()  # an image of the user's
        if manifest.target in served:
            return ()
        return (f"`{image}` serves target `{served[0]}`; this is another kind of artifact, of `{manifest.target}`",)

    def endpoint_environment(self, manifest: Manifest, image: str) -> Mapping[str, str]:
        """Variables that the container `image` needs to serve the artifact, besides what its folder says."""
        return {}

    def environment_problems(self, manifest: Manifest, environment: Mapping[str, str]) -> Sequence[str]:
        """Reasons why a container with these variables cannot serve the artifact as it was built."""
        return ()


class Runtime(ServingContainer):
    """Execution of a target's artifacts on this machine and in containers."""

    def runner(self, manifest: Manifest, max_memory: int) -> Runner | None:
        """Runner of the artifact on this machine, with at most `max_memory` bytes of buffers; None if there is none."""
        return None

    def unproven(self, manifest: Manifest) -> str:
        """Reason why this machine cannot prove that the artifact answers; "" if the runner's `once` can."""
        return "nothing on this machine runs it"

    def findings(self, manifest: Manifest, host: Host) -> Sequence[Finding]:
        """Comparison of the artifact with a machine, besides GPUs, memory and disk."""
        return ()

    def explain(self, manifest: Manifest, folder: Path, record: Path | None) -> Sequence[Finding]:
        """Findings on why a start does not use what was compiled for the artifact in `folder`.

        `record`: folder with the records of such a start; None: compare this machine. Raises UsageError, ArtifactError.
        """
        raise UsageError(
            f"artifacts of target `{manifest.target}` have no start-up cache that could be missed",
            hint="`lmi-compile preflight` compares an artifact with this machine",
        )

    def speed(self, plan: Planned[Any]) -> Sequence[Finding]:
        """Expected speed on this machine, from short measurements."""
        return ()

    def expected(self, manifest: Manifest) -> Sequence[tuple[str, str]]:
        """Facts about a run of the artifact on this machine that need no measurement: name and text."""
        return ()

    def doctor(self) -> tuple[Sequence[Finding], Sequence[Ability]]:
        """Findings about the toolchain here, with the vendor's install line, and the abilities of this machine."""
        return (), ()


@dataclass(frozen=True, kw_only=True)
class Target(Generic[O]):
    """A toolchain as its parts. `layout` None: the target reads the checkpoint itself instead of rank files."""

    name: str
    options: type[O]
    support: Support[O]
    layout: RankLayout[O] | None
    compiler: Compiler[O]
    packager: Packager[O]
    runtime: Runtime


def stages_of(target: Target[Any]) -> tuple[str, ...]:
    """Stages of a build for `target` in order, by their names for `--until`."""
    files = ("convert",) if target.layout is not None else ()
    judge = ("judge",) if target.layout is not None and target.layout.judge is not None else ()
    return ("plan", *files, *judge, "compile", "package", "verify")
