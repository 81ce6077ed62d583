"""Parts of target `trtllm`."""

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

    from compiler.model.config import ModelConfig
    from compiler.targets.values import How, PlannedRanks, Toolchain


class TrtllmSupport(Support[TrtllmOptions]):
    """Support of the models that a version of TensorRT-LLM has a class for."""

    group_sizes = schemes.GROUP_SIZES
    check = staticmethod(check.check)
    quantized = staticmethod(schemes.quantized)
    scaling = staticmethod(schemes.scaling)


class CheckpointLayout(RankLayout[TrtllmOptions]):
    """Files of a checkpoint, and the judge that computes them."""

    judge = staticmethod(judge_of)
    layouts = staticmethod(layout.layouts)
    rank_plans = staticmethod(layout.rank_plans)

    def files(self, config: ModelConfig, tp: int, dtype: str, options: TrtllmOptions) -> Mapping[str, bytes]:
        """config.json of the checkpoint, in the version's format."""
        return {"config.json": config_bytes(checkpoint_config(config, tp, dtype, options))}


class EngineCompiler(Compiler[TrtllmOptions]):
    """Compilation by `trtllm-build`, see build.py."""

    accelerators = ("NVIDIA",)
    command = staticmethod(command_line)

    def toolchain(self) -> Toolchain:
        """The module build.py."""
        from compiler.targets.trtllm import build

        return build

    def device(self, how: How) -> Device:
        """GPU of this machine: engines are built on the kind of GPU that will run them."""
        if how.march is not None or how.device not in (None, "cuda"):
            raise UsageError(
                "target `trtllm` builds only for the GPU of the machine that builds",
                hint=f"leave out `--march` and `--device {how.device or 'cpu'}`",
            )
        found, _ = gpus()
        return Device(kind="cuda", capability=found[0].capability if found else None)

    def needs(self, config: ModelConfig, tp: int, options: TrtllmOptions) -> Sequence[Need]:
        """Memory and disk for one rank at a time; figures are users' reports, the toolchain documents none."""
        from compiler.targets.trtllm.judge_model import BLOCK

        sizes = axis_sizes(config)
        weights = 2 * sum(prod(shape_of(tensor, sizes)) for tensor in model_tensors(config))
        rank = weights // (tp * options.pp)
        return (
            Need("judge", JUDGE_BUFFERS * BLOCK, 0, "float32, some rows of a matrix at a time"),
            Need("engine", HOST_COPIES * rank, weights, "trtllm-build, one worker; needs a GPU"),
        )

    def specs(self, plan: PlannedRanks[TrtllmOptions], source: str) -> Sequence[EnginesSpec]:
        """One spec for the engines of all ranks."""
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


class TrtllmPackager(Packager[TrtllmOptions]):
    """Artifacts of checkpoints, and of engines in their container's tree, see artifact.py and elsewhere.py."""

    elsewhere = elsewhere.ENGINES_ELSEWHERE
    contents = staticmethod(artifact.contents)
    check_tokenizer = staticmethod(artifact.check_tokenizer)
    transformers = staticmethod(artifact.transformers)
    options_of = staticmethod(artifact.options_of)
    rank_folder = staticmethod(artifact.rank_folder)
    problems = staticmethod(artifact.problems)


TARGET = Target(
    name="trtllm",
    options=TrtllmOptions,
    support=TrtllmSupport(),
    layout=CheckpointLayout(),
    compiler=EngineCompiler(),
    packager=TrtllmPackager(),
    runtime=TrtllmRuntime(),
)
