"""Target `trtllm`: its parts."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from compiler.artifact.manifest import Device
from compiler.errors import UsageError
from compiler.machine import gpus
from compiler.model.roles import axis_sizes, model_tensors, shape_of
from compiler.targets.protocols import Compiler, Packager, RankLayout, Support, Target
from compiler.targets.trtllm import artifact, check, elsewhere, layout, schemes
from compiler.targets.trtllm.build import HOST_COPIES
from compiler.targets.trtllm.command import command_line, flags_of
from compiler.targets.trtllm.config import checkpoint_config, config_bytes
from compiler.targets.trtllm.limits import build_limits
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.runtime import JUDGE_BUFFERS, TrtllmRuntime, judge_of
from compiler.targets.trtllm.spec import EnginesSpec
from compiler.targets.trtllm.version import version_of
from compiler.targets.values import Need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Manifest
    from compiler.model.config import ModelConfig
    from compiler.model.layout import Layout
    from compiler.model.lazy import Lazy, RankPlan
    from compiler.model.limits import Limits
    from compiler.model.roles import TensorId
    from compiler.quantization.request import Quant
    from compiler.quantization.scaling import Scaling
    from compiler.targets.values import Contents, How, Made, Planned, PlannedRanks, Toolchain


class TrtllmSupport(Support[TrtllmOptions]):
    """Models that a version of TensorRT-LLM has a class for: see check.py, schemes.py."""

    def check(self, config: ModelConfig, tp: int, options: TrtllmOptions, limits: Limits | None = None) -> None:
        """Raises RefusedError."""
        check.check(config, tp, options, limits)

    def quantized(self, config: ModelConfig, quant: Quant, options: TrtllmOptions) -> tuple[Quant, TrtllmOptions]:
        """Options with `quant_algo` and `kv_cache_quant_algo`. Raises RefusedError."""
        return schemes.quantized(config, quant, options)

    def scaling(self, config: ModelConfig, quant: Quant, options: TrtllmOptions) -> Scaling:
        """Scales as the files have them."""
        return schemes.scaling(config, quant, options)


class CheckpointLayout(RankLayout[TrtllmOptions]):
    """The files of a checkpoint: see layout.py, config.py. The judge computes them."""

    judge = staticmethod(judge_of)

    def layouts(self, config: ModelConfig, tp: int, options: TrtllmOptions) -> Sequence[Layout]:
        """See layout.py."""
        return layout.layouts(config, tp, options)

    def rank_plans(
        self, config: ModelConfig, tp: int, tensors: Mapping[TensorId, Lazy], dtype: str, options: TrtllmOptions
    ) -> Sequence[RankPlan]:
        """See layout.py."""
        return layout.rank_plans(config, tp, tensors, dtype, options)

    def files(self, config: ModelConfig, tp: int, dtype: str, options: TrtllmOptions) -> Mapping[str, bytes]:
        """config.json of the checkpoint, in the dialect of the version."""
        return {"config.json": config_bytes(checkpoint_config(config, tp, dtype, options))}


class EngineCompiler(Compiler[TrtllmOptions]):
    """`trtllm-build`: see build.py."""

    def toolchain(self) -> Toolchain:
        """build.py."""
        from compiler.targets.trtllm import build

        return build

    def device(self, how: How) -> Device:
        """The GPU that the driver of this machine names: engines are built on the kind of GPU that will run them."""
        if how.march is not None or how.device not in (None, "cuda"):
            raise UsageError(
                "target `trtllm` builds for the GPU of the machine that builds",
                hint=f"leave out `--march` and `--device {how.device or 'cpu'}`",
            )
        found, _ = gpus()
        return Device(kind="cuda", capability=found[0].capability if found else None)

    def needs(self, config: ModelConfig, tp: int, options: TrtllmOptions) -> Sequence[Need]:
        """Building one rank at a time; the toolchain documents no figures (these are from its users' reports)."""
        from compiler.targets.trtllm.judge_model import BLOCK

        sizes = axis_sizes(config)
        weights = 2 * sum(prod(shape_of(tensor, sizes)) for tensor in model_tensors(config))
        rank = weights // (tp * options.pp)
        return (
            Need("judge", JUDGE_BUFFERS * BLOCK, 0, "float32, some rows of a matrix at a time"),
            Need("engine", HOST_COPIES * rank, weights, "trtllm-build, one worker; needs a GPU"),
        )

    def specs(self, plan: PlannedRanks[TrtllmOptions], source: str) -> Sequence[EnginesSpec]:
        """One: the engines of all ranks."""
        return (
            EnginesSpec(
                source,
                plan.digest,
                version_of(plan.options),
                tuple(flags_of(plan)),
                build_limits(plan.limits, plan.options),
                ranks=len(plan.ranks),
                rank_bytes=max(rank.nbytes for rank in plan.ranks),
            ),
        )

    def command(self, plan: Planned[TrtllmOptions]) -> Sequence[str]:
        """The command line of `trtllm-build`."""
        return command_line(plan)


class TrtllmPackager(Packager[TrtllmOptions]):
    """Checkpoints, and engines in the tree of their container: see artifact.py, elsewhere.py."""

    elsewhere = elsewhere.ENGINES_ELSEWHERE

    def contents(self, plan: Planned[TrtllmOptions], made: Made) -> Contents:
        """The checkpoint where nothing is compiled yet, else the engines."""
        return artifact.contents(plan, made)

    def check_tokenizer(self, plan: Planned[TrtllmOptions], names: Sequence[str]) -> None:
        """Raises TokenizerError where the image's front end would not take these files for a tokenizer."""
        artifact.check_tokenizer(plan, names)

    def options_of(self, manifest: Manifest) -> TrtllmOptions:
        """Raises ArtifactError for another target's section."""
        return artifact.options_of(manifest)

    def rank_folder(self, manifest: Manifest) -> str | None:
        """The folder of the checkpoint, where the artifact has one."""
        return artifact.rank_folder(manifest)

    def problems(self, manifest: Manifest, folder: Path) -> Sequence[str]:
        """See artifact.py."""
        return artifact.problems(manifest, folder)


TARGET = Target(
    name="trtllm",
    options=TrtllmOptions,
    support=TrtllmSupport(),
    layout=CheckpointLayout(),
    compiler=EngineCompiler(),
    packager=TrtllmPackager(),
    runtime=TrtllmRuntime(),
)
