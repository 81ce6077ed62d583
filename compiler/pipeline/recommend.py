"""Recommendation: which containers can serve a model on which instance types, with what memory and how many copies.

Plans of every container of the decision tree (decision.py) at tp 1, 2, 4 ... are placed on the instance types
(lmi/capacity.py). The smallest tp that fits is recommended: it gives the most copies. Reads config.json and headers
only.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compiler.errors import ParallelError, RefusedError, UsageError, boundary
from compiler.lmi.capacity import place
from compiler.lmi.instance_table import INSTANCES
from compiler.lmi.instances import instance
from compiler.model.limits import positions_of
from compiler.pipeline.decision import backends
from compiler.pipeline.resolve import locate, plan_model
from compiler.pipeline.room import demand_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from compiler.lmi.capacity import Demand, Fit
    from compiler.lmi.images import Release
    from compiler.lmi.instance_table import Instance
    from compiler.pipeline.decision import Backend
    from compiler.pipeline.request import PlanRequest
    from compiler.pipeline.resolve import LocatedModel

LENGTH = 4096
"""Default length of a row, where the model has as many positions."""
_MOST = 6
"""Instance types that are listed where none is requested."""


@dataclass(frozen=True)
class Choice:
    """A container on an instance type, with the smallest tp that fits. `tried`: fits of every tp, or reasons."""

    backend: Backend
    tp: int
    fit: Fit
    tried: tuple[tuple[int, str], ...]
    build: str
    deploy: str

    def to_json(self) -> dict[str, Any]:
        fit = self.fit
        return {
            "backend": self.backend.name,
            "target": self.backend.target,
            "image": self.backend.image or None,
            "why": self.backend.why,
            "tp": self.tp,
            "copies": fit.copies,
            "bytes_of_a_rank": fit.demand.rank_bytes,
            "weights": fit.demand.weights,
            "cache": fit.demand.cache_bytes,
            "workspace": fit.demand.workspace,
            "usable": fit.usable,
            "most_rows": fit.most_rows,
            "tried": [{"tp": tp, "result": text} for tp, text in self.tried],
            "build": self.build,
            "deploy": self.deploy,
        }


@dataclass(frozen=True)
class Recommendation:
    """Containers on one instance type, the preferred first. `rejected`: (container, reason). `price`: of an hour."""

    instance: Instance
    options: tuple[Choice, ...]
    rejected: tuple[tuple[str, str], ...]
    price: float | None = None

    def to_json(self) -> dict[str, Any]:
        one = self.instance
        return {
            "instance_type": one.name,
            "accelerator": one.accelerator or None,
            "devices": one.devices,
            "vcpus": one.vcpus,
            "memory_gib": one.ram,
            "price": self.price,
            "options": [option.to_json() for option in self.options],
            "rejected": [{"backend": name, "reason": reason} for name, reason in self.rejected],
        }


def recommend(
    request: PlanRequest, release: Release | None = None, prices: Mapping[str, float] | None = None
) -> list[Recommendation]:
    """Recommendation for the request's instance type, or for the smallest types with GPUs that fit, the cheapest first
    where `prices` (of an hour, by name) are given. `release`: of LMI; None: of today. The request's target is not read.

    Raises RefusedError if nothing fits, with the reasons; UsageError for an unknown type; and as `plan_of`.
    """
    with boundary(step="recommend", input=request.model):
        search = _Search.of(request, release)
        if request.instance_type:
            return [_known(search.on(instance(request.instance_type), prices or {}))]
        found = [search.on(one, prices or {}) for one in INSTANCES.values() if one.capability]
        fits = sorted((one for one in found if one.options), key=_order)
        if not fits:
            _known(max(found, key=lambda one: one.instance.devices * one.instance.device_mib))
        families: dict[str, Recommendation] = {}
        for one in fits:
            families.setdefault(one.instance.family, one)
        return list(families.values())[:_MOST]


@dataclass(frozen=True)
class _Search:
    """Model that is placed on instance types. `demands`: by container and tp, or the reason why there is none."""

    request: PlanRequest
    release: Release | None
    model: LocatedModel
    dtype: str
    demands: dict[tuple[str, int], Demand | RefusedError]

    @classmethod
    def of(cls, request: PlanRequest, release: Release | None) -> _Search:
        """Search for a request, whose model is located."""
        model = locate(request)
        config, ask = model.config(request.ask), request.ask
        if ask.max_positions is None:
            ask = replace(ask, max_positions=min(LENGTH, positions_of(config)))
        return cls(replace(request, ask=ask), release, model, ask.dtype or config.dtype, {})

    def on(self, one: Instance, prices: Mapping[str, float]) -> Recommendation:
        """Containers on an instance type."""
        options, rejected = [], []
        for backend in backends(one, self.release):
            found = backend.problem(one, self.dtype) or self._best(backend, one)
            if isinstance(found, str):
                rejected.append((backend.name, found))
            else:
                options.append(found)
        return Recommendation(one, tuple(options), tuple(rejected), prices.get(one.name))

    def _best(self, backend: Backend, one: Instance) -> Choice | str:
        """The smallest tp that fits, or the reason why none does: that of the largest which can split the model."""
        tried: list[tuple[int, str]] = []
        fits: list[tuple[int, Fit]] = []
        reason = ""
        for tp in _degrees(one.devices):
            demand = self._demand(backend, tp)
            if isinstance(demand, RefusedError):
                tried.append((tp, demand.message))
                if not isinstance(demand, ParallelError):
                    reason = demand.message
                continue
            fit = place(demand, one)
            tried.append((tp, fit.summary))
            reason = f"tp {tp}: {fit.summary}"
            if fit.copies:
                fits.append((tp, fit))
        if not fits:
            return reason or tried[-1][1]
        tp, fit = fits[0]
        build, deploy = _commands(self.request, backend, tp, fit)
        return Choice(backend, tp, fit, tuple(tried), build, deploy)

    def _demand(self, backend: Backend, tp: int) -> Demand | RefusedError:
        key = (f"{backend.target} {backend.image}", tp)
        if key not in self.demands:
            ask = replace(self.request.ask, tp=tp, options=backend.planned)
            try:
                plan = plan_model(self.model, backend.target, ask, self.request.resources.max_memory)
                self.demands[key] = demand_of(plan)
            except RefusedError as error:
                self.demands[key] = error
        return self.demands[key]


def _degrees(devices: int) -> Iterator[int]:
    """Powers of two up to the number of devices, and that number; 1 without devices."""
    tp = 1
    while tp < max(devices, 1):
        yield tp
        tp *= 2
    yield max(devices, 1)


def _known(found: Recommendation) -> Recommendation:
    """`found`. Raises RefusedError if it has no option."""
    if found.options:
        return found
    lines = [f"  {name}: {reason}" for name, reason in found.rejected]
    raise RefusedError(
        "\n".join([f"{found.instance.name} cannot serve this model:", *(lines or ["  no container is known"])]),
        hint="lower `--batch` or `--length`, or leave `--instance-type` out: then the types that fit are listed",
    )


def _order(found: Recommendation) -> tuple[float, int, float, str]:
    """By price where it is known, then by memory of all devices."""
    one = found.instance
    price = float("inf") if found.price is None else found.price
    return (price, one.devices * one.device_mib, one.ram, one.name)


def _commands(request: PlanRequest, backend: Backend, tp: int, fit: Fit) -> tuple[str, str]:
    """Commands that build the artifact into a store, and deploy it from there."""
    ask, name = request.ask, f"{request.model.rstrip('/').rpartition('/')[2].lower()}-tp{tp}"
    dtype = ["--dtype", ask.dtype] if ask.dtype else []
    build = [
        "lmi-compile", "build", "--model", request.model, "--target", backend.target, *backend.flags, "--tp", str(tp),
        *dtype, "--max-batch", str(ask.max_batch), "--max-positions", str(ask.max_positions),
        "--instance-type", fit.instance.name, "--name", name, "--output", "s3://BUCKET/STORE",
    ]  # fmt: skip
    image = [] if "--image" in backend.flags else ["--image", backend.image or "IMAGE"]
    copies = ["--copies", "auto"] if fit.copies > 1 and fit.instance.devices else []
    deploy = [
        "lmi-compile", "deploy", f"s3://BUCKET/STORE/{name}@current", "--instance-type", fit.instance.name, *image,
        *copies, "--role", "ROLE_ARN",
    ]  # fmt: skip
    return shlex.join(build), shlex.join(deploy)


def parse_prices(data: bytes, name: str) -> dict[str, float]:
    """Prices of an hour by instance type, of a JSON object. Raises UsageError."""
    import json

    try:
        found = {instance(key).name: float(value) for key, value in json.loads(data).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{name}: expected prices by instance type; found {error}", hint='{"ml.g5.xlarge": 1.41, ...}'
        ) from None
    if bad := [key for key, value in found.items() if not 0 <= value < float("inf")]:
        raise UsageError(f"{name}: the price of `{bad[0]}` is {found[bad[0]]}", hint="prices are numbers from 0 on")
    return found
