"""Section of target `neuron` in the manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compiler.artifact.sections import InnerPath, Section, Size, Strict
from compiler.machine import extra_command

DriverName = Literal["graph", "optimum", "nxdi", "tnx"]
UNPROVEN = "nothing of it was run on NeuronCores"


class HloGraph(Strict):
    """Graph of one bucket. `length`: its tokens (context) or positions (token); `rows`: of a step. `neff`: executable,
    in the persistent cache's layout; None before it is compiled.
    """

    kind: Literal["context", "token"]
    length: Size
    rows: Size
    hlo: InnerPath
    neff: Annotated[InnerPath | None, Field(exclude_if=lambda value: value is None)] = None


class NeuronFiles(Section, extra="forbid"):
    """Files for NeuronCores.

    `driver`: software that compiles and loads them. `platform`: instance family; `instance`: type, "" if unknown.
    `strategy`: of attention heads. `batches`: rows of decode graphs. `weights`: "int8", or "" for the dtype. `shards`:
    file of each rank; `graphs`: in the order of buckets; both of our own. `vendor`: files that the driver's library
    made; () before. `presharded`: whether weights for transformers-neuronx are in it, too. `restart`: what a second
    process of the library compiled, "" = it was not run. `image`, `command`, `environment`: container that serves it,
    None: there is none. `proven`: what is known of a run on the hardware.
    """

    driver: DriverName
    platform: str
    instance: str
    strategy: str
    over_sequence: bool
    context_buckets: tuple[Size, ...]
    token_buckets: tuple[Size, ...]
    batches: tuple[Size, ...]
    continuous_batching: bool
    weights: str
    shards: tuple[InnerPath, ...]
    graphs: tuple[HloGraph, ...]
    vendor: tuple[InnerPath, ...]
    image: str | None
    command: tuple[str, ...]
    environment: dict[str, str]
    presharded: bool = False
    restart: str = ""
    proven: str = UNPROVEN

    @property
    def rank_files(self) -> tuple[str, ...]:
        """Shards in rank order."""
        return self.shards

    @property
    def paths(self) -> tuple[str, ...]:
        """Shards, graphs and executables, or the files of the driver's library."""
        graphs = (path for graph in self.graphs for path in (graph.hlo, graph.neff) if path)
        return (*self.shards, *graphs, *self.vendor)

    @property
    def image_tag(self) -> str | None:
        """Container image."""
        return self.image

    @property
    def unfinished(self) -> str:
        """Hint for graphs that are not compiled, or a driver that has not run; else ""."""
        if self.vendor or (self.driver == "graph" and self.graphs and all(graph.neff for graph in self.graphs)):
            return ""
        if self.driver == "graph" and not self.graphs:
            return f"its graphs are not made yet: `{extra_command('neuron')}`, then build it again"
        where = "neuronx-cc" if self.driver == "graph" else f"the library of driver `{self.driver}`"
        return f"run its `compile-neuron.sh` where {where} is, then `lmi-compile package`"

    def facts(self) -> list[tuple[str, str]]:
        """Lines of `inspect`: driver and platform, heads, graphs, what is proven."""
        made = sum(graph.neff is not None for graph in self.graphs)
        held = f"{len(self.vendor)} files of the driver's library" if self.vendor else f"{len(self.graphs)} graphs"
        compiled = "" if self.vendor else f", {made} compiled"
        image = f", for {self.image}" if self.image else ""
        buckets = f"prompts {list(self.context_buckets)}, decode {list(self.token_buckets)}, rows {list(self.batches)}"
        return [
            ("driver", f"{self.driver} on {self.instance or self.platform}{image}"),
            ("heads", self.strategy),
            ("holds", f"{held}{compiled}"),
            ("buckets", buckets),
            *([("restart", self.restart)] if self.restart else []),
            ("hardware", self.proven),
        ]


SECTION = NeuronFiles
