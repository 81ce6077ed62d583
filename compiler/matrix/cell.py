"""Cell: one build of a matrix as a job for an engine. It names all that another machine has to know."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from compiler.matrix.state import tag_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.storage.files.digest import Digest

STAGES = ("convert", "build", "prove")
"""Stages of a build, in their order (stages.py)."""

KEYS: dict[str, type] = {
    "cpus": float,
    "memory-gib": float,
    "disk-gib": float,
    "gpus": int,
    "neuron": int,
    "instance": str,
    "image": str,
    "custom": dict,
    "command": list,
    "stages": list,
    "another-host": bool,
    "convert": dict,
    "prove": dict,
}
"""Keys of [fleet] and [build.fleet] in a builds.toml. `custom`: resources by names of the cluster, `{sm_90 = 1}`.
`command`: lmi-compile on the engine's machines, as words. `stages`: those of
`convert`, `build` and `prove` that are cells of their own; `convert`, `prove`: tables with these keys for a stage;
`another-host`: the proof runs on another machine than the build.
"""


@dataclass(frozen=True)
class CellResources:
    """Resources of a cell; `memory` and `disk` in bytes; 0: not known, none is requested. `instance`: instance type."""

    cpus: float = 0.0
    memory: int = 0
    disk: int = 0
    gpus: int = 0
    neuron: int = 0
    instance: str = ""
    custom: tuple[tuple[str, float], ...] = ()

    def doubled_memory(self) -> CellResources:
        return replace(self, memory=2 * self.memory)


@dataclass(frozen=True)
class Cell:
    """A build with its place and inputs.

    `words`: options of `lmi-compile build`. `key`: cache key, whose tag names the artifact in `store`; `inputs`:
    digests of plan and source. `output`: folder of the artifacts, "" for a scratch folder of the machine. `signing`:
    PEM file. `ledger`: URI of the ledger. `timeout`: seconds, 0 for none. `token` names one attempt. `over`: ETag of a
    dead machine's claim. `command`: lmi-compile as words of a command line. `stage`: see stages.py; the others than
    `build` belong to `artifact` with `artifact_key`. `another_host`: not on the machine that built it.
    """

    name: str
    words: tuple[str, ...]
    key: Digest
    inputs: tuple[Digest, ...]
    version: str
    options: tuple[tuple[str, str | bool], ...]
    ledger: str
    output: str = ""
    store: str = ""
    signing: str = ""
    image: str = ""
    resources: CellResources = CellResources()
    timeout: float = 0.0
    token: str = ""
    over: str = ""
    command: tuple[str, ...] = ("lmi-compile",)
    stage: str = "build"
    artifact: str = ""
    artifact_key: Digest = ""
    another_host: bool = False

    @property
    def address(self) -> str:
        """Content address of the output: the tag in the store, or the folder."""
        return (
            f"{self.store.rstrip('/')}/{self.name}@{tag_of(self.key)}" if self.store else f"{self.output}/{self.name}"
        )

    @property
    def machine(self) -> tuple[object, ...]:
        """All that a machine of the cell is requested by: equal for cells that can be one array."""
        return self.image, self.resources, self.timeout, self.command, self.ledger

    @property
    def argv(self) -> tuple[str, ...]:
        """Command line that builds the cell, on any machine that reaches the ledger."""
        return (*self.command, "matrix", "cell", self.ledger, self.token)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def cell_of(found: Mapping[str, Any]) -> Cell:
    """Cell from its JSON. Raises KeyError, TypeError."""
    facts = dict(found)
    resources = dict(facts.pop("resources"))
    resources["custom"] = tuple((name, value) for name, value in resources["custom"])
    pairs = tuple((name, value) for name, value in facts.pop("options"))
    facts |= {name: tuple(facts[name]) for name in ("words", "inputs", "command")}
    return Cell(resources=CellResources(**resources), options=pairs, **facts)


def resources_of(
    options: Mapping[str, str | bool], fleet: Mapping[str, Any], stages: list[dict[str, Any]]
) -> CellResources:
    """Resources that a build needs. `fleet`: its [build.fleet]; `stages`: memory and disk of each step of the plan.

    Without `gpus` in `fleet`, a build with `--device cuda` gets one for each rank.
    """
    tp = str(options.get("tp", "1"))
    ranks = int(tp) if tp.isdecimal() else 1
    memory = max((int(stage["memory"]) for stage in stages), default=0)
    disk = sum(int(stage["disk"]) for stage in stages)
    return CellResources(
        cpus=float(fleet.get("cpus", 0)),
        memory=_bytes(fleet["memory-gib"]) if "memory-gib" in fleet else memory,
        disk=_bytes(fleet["disk-gib"]) if "disk-gib" in fleet else disk,
        gpus=int(fleet.get("gpus", ranks if str(options.get("device", "")).startswith("cuda") else 0)),
        neuron=int(fleet.get("neuron", 0)),
        instance=str(fleet.get("instance", options.get("instance-type", ""))),
        custom=tuple(sorted((name, float(value)) for name, value in fleet.get("custom", {}).items())),
    )


def _bytes(gib: float) -> int:
    return int(float(gib) * 2**30)
