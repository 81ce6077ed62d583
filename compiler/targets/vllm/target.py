"""Parts of target `vllm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.artifact.manifest import Device
from compiler.errors import UsageError
from compiler.machine import gpus
from compiler.model.parallel import check_parallel
from compiler.targets.protocols import Compiler, Packager, RankLayout, Support, Target
from compiler.targets.vllm import artifact, layout, schemes
from compiler.targets.vllm.architectures import row_for
from compiler.targets.vllm.copies import copies
from compiler.targets.vllm.dropped import check_served
from compiler.targets.vllm.elsewhere import CACHE_ELSEWHERE
from compiler.targets.vllm.faults import faults
from compiler.targets.vllm.migrate import migration
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.runner import judge_of
from compiler.targets.vllm.runtime import VllmRuntime
from compiler.targets.vllm.specs import check_options, specs
from compiler.targets.vllm.version import version_of

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.model.limits import Limits
    from compiler.targets.values import How, Toolchain


class VllmSupport(Support[VllmOptions]):
    """Support of the architectures whose shards are written."""

    migration = staticmethod(migration)
    quantized = staticmethod(schemes.quantized)

    def check(self, config: ModelConfig, tp: int, options: VllmOptions, limits: Limits | None = None) -> None:
        """Raise UsageError for wrong options, RefusedError for a class that vLLM has no more. Unless vLLM reads the
        checkpoint itself: RefusedError without a row, ParallelError if `tp` cannot split the model.
        """
        check_options(options)
        if copies(config, options):
            check_served(config.architecture, version_of(options))
        else:
            row_for(config, version_of(options))
            check_parallel(config, tp)


class ShardLayout(RankLayout[VllmOptions]):
    """Shards, and the decoder that computes them."""

    layouts = staticmethod(layout.layouts)
    rank_plans = staticmethod(layout.rank_plans)
    constants = staticmethod(layout.model_constants)

    judge = staticmethod(judge_of)
    copies = staticmethod(copies)


class ServerCompiler(Compiler[VllmOptions]):
    """Compilation by a server's own start, see bake.py."""

    specs = staticmethod(specs)

    def toolchain(self) -> Toolchain:
        """The module bake.py."""
        from compiler.targets.vllm import bake

        return bake

    def device(self, how: How) -> Device:
        """Device of the server: the GPU of this machine, or `--device cpu`."""
        if how.march is not None or how.device not in (None, "cuda", "cpu"):
            raise UsageError(
                f"target `vllm` compiles for `cuda` or `cpu`; found `--march {how.march}`, `--device {how.device}`",
                hint="leave `--march` out",
            )
        if how.device == "cpu":
            return Device(kind="cpu")
        found, _ = gpus()
        return Device(kind="cuda", capability=found[0].capability if found else None)


class VllmPackager(Packager[VllmOptions]):
    """Artifacts: the folder that a container mounts as /opt/ml/model, see artifact.py."""

    elsewhere = CACHE_ELSEWHERE
    contents = staticmethod(artifact.contents)
    options_of = staticmethod(artifact.options_of)
    problems = staticmethod(faults)


TARGET = Target(
    name="vllm",
    options=VllmOptions,
    support=VllmSupport(),
    layout=ShardLayout(),
    compiler=ServerCompiler(),
    packager=VllmPackager(),
    runtime=VllmRuntime(),
)
