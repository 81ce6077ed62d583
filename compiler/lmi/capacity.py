"""Memory of a model on an instance type: the one arithmetic of `plan --instance-type`, `recommend` and `deploy`.

    a device     weights of its rank + KV cache (batch x length tokens) + workspace <= USABLE x its memory
    a copy       tp x pp devices, or, on processors alone, the memory of all its ranks
    copies       devices of the instance // devices of a copy; on processors alone by memory, and a vCPU for each rank

Weights and cache are exact. The workspace is an estimate of ours: CONTEXT, the activations of one step of prefill, and
the logits of the batch in float32, twice. It was not measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.lmi.instance_table import INSTANCES, Instance

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig

USABLE = 0.9
"""Share of a device's memory that is planned with: vLLM's default of `gpu_memory_utilization`."""
CONTEXT = 1 << 30
"""Bytes of a rank for its driver context, its kernels and the buffers of its collectives."""
MOST_TOKENS = 16384
"""Most tokens of one step: LMI's default of `option.max_num_tokens`."""
GIB = 1 << 30


@dataclass(frozen=True)
class Demand:
    """Memory of one copy of a model. `ranks`: its devices; `weights`, `workspace`: bytes of a rank; `cache`: bytes of a
    token on a rank; `batch` rows of `length` tokens, prompt and answer.
    """

    ranks: int
    weights: int
    cache: int
    workspace: int
    batch: int
    length: int

    @property
    def cache_bytes(self) -> int:
        return self.cache * self.batch * self.length

    @property
    def rank_bytes(self) -> int:
        return self.weights + self.cache_bytes + self.workspace

    @property
    def text(self) -> str:
        """`12.1 GiB of weights + 2.0 GiB of KV cache (8 rows of 4096 tokens) + 1.2 GiB of workspace`."""
        return (
            f"{_gib(self.weights)} of weights + {_gib(self.cache_bytes)} of KV cache ({self.batch} rows of "
            f"{self.length} tokens) + {_gib(self.workspace)} of workspace"
        )


@dataclass(frozen=True)
class Fit:
    """Copies of a model on an instance type. `problems`: reasons why none fits, with numbers; () if `copies` > 0.

    `usable`: bytes of a device (of all memory without devices) that are planned with. `most_rows`: rows of the demand's
    length for which each copy has memory.
    """

    instance: Instance
    demand: Demand
    copies: int
    usable: int
    most_rows: int
    problems: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """`2 copies of 4 devices on ml.p4d.24xlarge, 31.2 of 36.0 GiB of each`."""
        name, ranks = self.instance.name, self.demand.ranks
        if self.problems:
            return "; ".join(self.problems)
        copies = f"{self.copies} {'copy' if self.copies == 1 else 'copies'}"
        if not self.instance.devices:
            return f"{copies} on {name}, {_gib(self.demand.rank_bytes * ranks)} of {_gib(self.usable)} for each"
        devices = f"{ranks} {'device' if ranks == 1 else 'devices'}"
        return f"{copies} of {devices} on {name}, {_gib(self.demand.rank_bytes)} of {_gib(self.usable)} of each"

    @property
    def summary(self) -> str:
        """`text` without the parts of a sum that does not fit: `93.1 GiB a device, 36.0 GiB usable`."""
        one, demand = self.instance, self.demand
        if not self.problems:
            return self.text
        if one.devices and demand.ranks > one.devices:
            return f"{demand.ranks} devices; {one.name} has {one.devices}"
        of = "a device" if one.devices else "a rank"
        return f"{_gib(demand.rank_bytes)} {of}, {_gib(self.usable)} usable"


def place(demand: Demand, instance: Instance, *, on_processors: bool = False) -> Fit:
    """Copies of a model on an instance type. `on_processors`: its ranks are processes that use no accelerator."""
    if on_processors or not instance.devices:
        return _on_processors(demand, instance)
    usable = int(instance.device_bytes * USABLE)
    free = usable - demand.weights - demand.workspace
    rows = max(free, 0) // max(demand.cache * demand.length, 1)
    problems = []
    if demand.ranks > instance.devices:
        problems.append(f"it is split over {demand.ranks} devices; {instance.name} has {instance.devices}")
    if demand.rank_bytes > usable:
        problems.append(
            f"{demand.text} = {_gib(demand.rank_bytes)} a device; {instance.accelerator} of {instance.name} has "
            f"{_gib(instance.device_bytes)}, {USABLE:.0%} of it usable: {_gib(usable)}"
        )
    copies = 0 if problems else instance.devices // demand.ranks
    return Fit(instance, demand, copies, usable, rows, tuple(problems))


def _on_processors(demand: Demand, instance: Instance) -> Fit:
    usable = int(instance.ram_bytes * USABLE)
    copy = demand.rank_bytes * demand.ranks
    fixed = (demand.weights + demand.workspace) * demand.ranks
    rows = max(usable - fixed, 0) // max(demand.cache * demand.length * demand.ranks, 1)
    if copy <= usable:
        copies = min(usable // copy, max(instance.vcpus // demand.ranks, 1))
        return Fit(instance, demand, copies, usable, rows)
    problem = (
        f"{demand.ranks} x ({demand.text}) = {_gib(copy)}; {instance.name} has {_gib(instance.ram_bytes)} of memory, "
        f"{USABLE:.0%} of it usable: {_gib(usable)}"
    )
    return Fit(instance, demand, 0, usable, rows, (problem,))


def smallest(demand: Demand) -> list[Fit]:
    """Instance types with GPUs that have room for a copy, those with the least memory of devices first; of each family
    the smallest.
    """
    found: dict[str, Fit] = {}
    fits = [place(demand, one) for one in INSTANCES.values() if one.capability]
    for fit in sorted((fit for fit in fits if fit.copies), key=_size):
        found.setdefault(fit.instance.family, fit)
    return list(found.values())


def _size(fit: Fit) -> tuple[int, int, float, str]:
    one = fit.instance
    return (one.devices * one.device_mib, one.devices, one.ram, one.name)


def workspace_bytes(config: ModelConfig, tp: int, itemsize: int, batch: int, length: int, chunk: int) -> int:
    """Bytes of a rank besides weights and cache, see above. `chunk`: tokens of a row in a step of prefill."""
    tokens = min(max(chunk * batch, length), MOST_TOKENS)
    heads = (config.heads + 2 * config.kv_heads) * config.head_dim
    width = max(config.ffn, config.moe_ffn * config.experts_per_token)
    activations = 2 * tokens * (2 * config.hidden + -(-(heads + 2 * width) // tp)) * itemsize
    return CONTEXT + activations + 2 * 4 * batch * config.vocab


def _gib(nbytes: int) -> str:
    return f"{nbytes / GIB:.1f} GiB"
