"""Room of a planned model on an instance type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import RefusedError
from compiler.lmi.capacity import Demand, place, smallest, workspace_bytes
from compiler.lmi.instances import instance
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import ITEMSIZE
from compiler.targets import load

if TYPE_CHECKING:
    from compiler.pipeline.plan import Plan


def demand_of(plan: Plan) -> Demand:
    """Memory of one copy of a planned model, at the limits of the plan."""
    limits = plan.limits
    return Demand(
        ranks=max(len(plan.ranks), plan.tp),
        weights=max((rank.nbytes for rank in plan.ranks), default=plan.source_bytes // plan.tp),
        cache=plan.kv_bytes_per_token,
        workspace=workspace_bytes(
            plan.config, plan.tp, ITEMSIZE[DTYPES[plan.dtype]], limits.max_batch, limits.max_positions,
            limits.prefill_chunk,
        ),
        batch=limits.max_batch,
        length=limits.max_positions,
    )  # fmt: skip


def room_note(plan: Plan, instance_type: str) -> str:
    """Note on the copies that an instance type has room for. Raises RefusedError if it has room for none, with the
    reasons and instance types that have; UsageError for an unknown type.
    """
    demand, one = demand_of(plan), instance(instance_type)
    found = place(demand, one)
    target = load(plan.target)
    makers = target.compiler.accelerators
    other = [] if one.maker in makers else [f"target `{plan.target}` has no code for {one.accelerator or 'processors'}"]
    if problems := [*other, *found.problems]:
        fits = smallest(demand)[:4] if "NVIDIA" in makers else []
        names = ", ".join(fit.instance.name for fit in fits)
        here = "" if other else target.support.fitting(plan, one)
        raise RefusedError(
            "\n".join([f"{one.name} has no room for this plan:", *(f"  {line}" for line in problems)]),
            hint="; ".join(
                filter(
                    None,
                    (
                        f"it fits {names}" if names else "",
                        here or f"`lmi-compile recommend --instance-type {one.name}` lists what fits there",
                    ),
                )
            ),
        )
    return found.text
