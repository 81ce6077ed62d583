"""Specs of a build: one for each graph, which is compiled where neuronx-cc is, and one for the run of a driver."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compiler.targets.neuron.drivers.choice import driver_of
from compiler.targets.neuron.drivers.driver import is_installed
from compiler.targets.neuron.graph.signature import GraphSpec, graph_specs
from compiler.targets.neuron.neuronx import compiler_flags, find_compiler
from compiler.targets.neuron.platforms import platform_named, platform_of
from compiler.targets.neuron.support import plan_of
from compiler.targets.values import TREE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.targets.neuron.drivers.driver import VendorDriver
    from compiler.targets.neuron.options import NeuronOptions
    from compiler.targets.neuron.plan import NeuronPlan
    from compiler.targets.values import PlannedRanks

HLO, NEFF, VERSION = "hlo_module.pb", "neff", "version"
"""Endings of a graph, of its executable, and of the file with the version of the compiler that made it."""
PROOF, VENDOR, PRESHARDED = "proof", "vendor", "presharded"
"""Names of the specs of the proof of our graphs, of a driver's run, and of weights in the layout of its library."""


@dataclass(frozen=True)
class GraphBuild:
    """One graph of `plan`. `compiled`: whether neuronx-cc is here; without it the graph alone is made."""

    graph: GraphSpec
    plan: NeuronPlan
    platform: str
    compiled: bool

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def hlo(self) -> str:
        """File of the graph."""
        return f"{self.name}.{HLO}"

    @property
    def neff(self) -> str:
        """File of the executable."""
        return f"{self.name}.{NEFF}"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The graph, and its executable."""
        return (self.hlo, self.neff, f"{self.name}.{VERSION}") if self.compiled else (self.hlo,)

    def to_json(self) -> dict[str, Any]:
        """Part of the cache key."""
        plan = asdict(self.plan) | {"config": self.plan.config.to_json()}
        flags = list(compiler_flags(platform_named(self.platform))) if self.compiled else []
        return {"graph": asdict(self.graph), "plan": plan, "flags": flags}


@dataclass(frozen=True)
class GraphProof:
    """Execution of the graphs of a small model of the kind of `plan`, against the decoder (verify.py)."""

    plan: NeuronPlan
    name: str = PROOF
    outputs: tuple[str, ...] = (f"{PROOF}.json",)

    def to_json(self) -> dict[str, Any]:
        """Part of the cache key."""
        return asdict(self.plan) | {"config": self.plan.config.to_json()}


@dataclass(frozen=True)
class VendorBuild:
    """Run of a driver's library. `source`: digest of the model, whose weights it reads."""

    driver: VendorDriver
    plan: NeuronPlan
    platform: str
    source: str
    name: str = VENDOR
    outputs: tuple[str, ...] = TREE

    def to_json(self) -> dict[str, Any]:
        """Part of the cache key."""
        run = self.driver.run(self.plan, self.platform)
        files = {name: data.decode() for name, data in run.files.items()}
        call = {"argv": list(run.argv), "environment": dict(run.environment), "files": files}
        return {"driver": self.driver.name, "platform": self.platform, "source": self.source} | call


@dataclass(frozen=True)
class PreshardedWeights:
    """Weights in the layout of transformers-neuronx. `source`: digest of the model, `weights`: of the plan."""

    plan: NeuronPlan
    source: str
    weights: str
    name: str = PRESHARDED
    outputs: tuple[str, ...] = TREE

    def to_json(self) -> dict[str, Any]:
        """Part of the cache key."""
        return {"source": self.source, "weights": self.weights}


AnySpec = GraphProof | GraphBuild | VendorBuild | PreshardedWeights


def specs(plan: PlannedRanks[NeuronOptions], source: str) -> Sequence[AnySpec]:
    """Specs of the proof, of all graphs, of presharded weights, and of the driver's run where its library is installed.

    Weights are inputs of our graphs: `source`, the digest of the model, is only in the key of the driver's.
    """
    found = plan_of(plan.config, plan.tp, plan.limits, plan.dtype, plan.options)
    platform, driver = platform_of(plan.options.instance).name, driver_of(plan.options, found)
    compiled = driver is None and find_compiler() is not None
    graphs: list[AnySpec] = [GraphProof(found)]
    graphs += [GraphBuild(graph, found, platform, compiled) for graph in graph_specs(found)]
    if plan.options.presharded:
        graphs.append(PreshardedWeights(found, source, plan.digest))
    if driver is None or not is_installed(driver):
        return graphs
    return [*graphs, VendorBuild(driver, found, platform, source)]
