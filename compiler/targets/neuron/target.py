"""Parts of target `neuron`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compiler.artifact.manifest import Device
from compiler.errors import UsageError
from compiler.targets.neuron import artifact, layout
from compiler.targets.neuron.build import HOST_BYTES
from compiler.targets.neuron.elsewhere import GRAPHS_ELSEWHERE
from compiler.targets.neuron.judge import SHARDS
from compiler.targets.neuron.neuronx import compiler_argv
from compiler.targets.neuron.options import NeuronOptions
from compiler.targets.neuron.platforms import platform_of
from compiler.targets.neuron.runtime import NeuronRuntime, judge_of
from compiler.targets.neuron.support import NeuronSupport
from compiler.targets.protocols import Compiler, Packager, RankLayout, Target
from compiler.targets.values import Need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.model.config import ModelConfig
    from compiler.targets.values import How, Planned, Toolchain


class GraphLayout(RankLayout[NeuronOptions]):
    """Shards that our graphs read, and the judge that puts them together again."""

    judge = staticmethod(judge_of)
    heads = staticmethod(layout.heads)
    layouts = staticmethod(layout.layouts)
    rank_plans = staticmethod(layout.rank_plans)

    def files(self, config: ModelConfig, tp: int, dtype: str, options: NeuronOptions) -> Mapping[str, bytes]:
        """shards.json: which head is in which slot."""
        plan = layout.weight_plan(config, tp, options)
        facts = {
            "strategy": plan.heads.strategy,
            "tp": tp,
            "dtype": dtype,
            "weights": plan.weights,
            "split_columns": plan.heads.split_columns,
            "queries": plan.heads.queries,
            "keys": plan.heads.keys,
            "files": [layout.shard_file(rank) for rank in range(tp)],
        }
        return {SHARDS: (json.dumps(facts, sort_keys=True) + "\n").encode()}


class NeuronCompiler(Compiler[NeuronOptions]):
    """Lowering by jax, and compilation by neuronx-cc or a driver's library, see build.py."""

    accelerators = ("AWS",)

    def toolchain(self) -> Toolchain:
        """The module build.py."""
        from compiler.targets.neuron import build

        return build

    def device(self, how: How) -> Device:
        """NeuronCores; their family follows from the instance type."""
        if how.march is not None or how.device not in (None, "neuron"):
            raise UsageError(
                f"target `neuron` compiles for NeuronCores; found `--device {how.device}`, `--march {how.march}`",
                hint="leave both out; `--instance-type` names the machine",
            )
        return Device(kind="neuron")

    def needs(self, config: ModelConfig, tp: int, options: NeuronOptions) -> Sequence[Need]:
        """Memory for one run of neuronx-cc: an estimate."""
        return (Need("compile", HOST_BYTES, 0, "one run of neuronx-cc: an estimate, no figure is published"),)

    def specs(self, plan: Any, source: str) -> Sequence[Any]:
        """Specs of all graphs, and of the driver."""
        from compiler.targets.neuron.specs import specs

        return specs(plan, source)

    def command(self, plan: Planned[NeuronOptions]) -> Sequence[str]:
        """Call of the driver's library, or the command line for the largest graph."""
        from compiler.targets.neuron.drivers.choice import driver_of
        from compiler.targets.neuron.graph.signature import graph_specs
        from compiler.targets.neuron.support import plan_of

        found = plan_of(plan.config, plan.tp, plan.limits, plan.dtype, plan.options)
        driver, platform = driver_of(plan.options, found), platform_of(plan.options.instance)
        if driver is not None:
            return driver.run(found, platform.name).argv
        name = graph_specs(found)[-1].name
        return compiler_argv(f"graphs/{name}.hlo_module.pb", f"compiled/{name}.neff", platform)


class NeuronPackager(Packager[NeuronOptions]):
    """Artifacts, see artifact.py and elsewhere.py."""

    elsewhere = GRAPHS_ELSEWHERE
    contents = staticmethod(artifact.contents)
    options_of = staticmethod(artifact.options_of)


TARGET = Target(
    name="neuron",
    options=NeuronOptions,
    support=NeuronSupport(),
    layout=GraphLayout(),
    compiler=NeuronCompiler(),
    packager=NeuronPackager(),
    runtime=NeuronRuntime(),
)
