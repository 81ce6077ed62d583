"""Programs from stored tensors to canonical ones, as a `Map` of a recipe describes them."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from compiler.model.ops import Each, Op, Program, Rearrange, Split, Stack
from compiler.model.roles import ROLES, TensorId, axis_sizes, has_experts

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.model.recipe import Map


def stored_axes(role: str, part: str) -> tuple[tuple[str, ...], ...]:
    """Axes of a role as a checkpoint groups them: ((out axes), (in axes)) for a linear layer's weight."""
    axes = TensorId(role, part).axes
    out = ROLES[role].bias_axes
    if part == "weight" and out and axes[: len(out)] == out and not has_experts(role):
        return tuple(group for group in (out, axes[len(out) :]) if group)
    if part == "bias":
        return (axes[:1], axes[1:]) if has_experts(role) else (axes,)
    return tuple((axis,) for axis in axes)


def to_roles(mapping: Map, part: str, config: ModelConfig) -> Program:
    """Program from the stored tensor (or one tensor per expert or head) of `mapping` to one canonical tensor per role.

    Shapes: stored [out, in] ("in out": [in, out]; stacked: [experts, ...]); a canonical tensor has one dimension per
    axis of its role.
    """
    sizes = axis_sizes(config)
    roles = mapping.role_names
    if mapping.by_head:
        return (Stack(sizes[TensorId(roles[0], part).axes[0]]),)
    ops: list[Op] = [Stack(sizes["experts"])] if mapping.by_expert else []
    experts = mapping.by_expert or mapping.stacked
    lead = "experts " if experts else ""
    if mapping.layout == "in out" and part == "weight":
        ops.append(Rearrange(f"{lead}in out -> {lead}out in", ()))
    groups = [stored_axes(role, part)[1 if experts else 0 :] for role in roles]
    if mapping.layout == "axes":
        groups = [tuple((axis,) for group in of_role for axis in group) for of_role in groups]
    rows = [prod(sizes[axis] for axis in group[0]) for group in groups]
    rest = " in" if len(groups[0]) > 1 else ""
    if len(roles) > 1 and mapping.fused == "per_kv_head":
        group = sizes["heads"] // sizes["kv_heads"]
        slots = (group, 1, 1)

        def named(slot: int) -> tuple[tuple[str, int], ...]:
            return (("kv", sizes["kv_heads"]), ("slot", slot), ("d", sizes["head_dim"]))

        ops.append(Rearrange(f"(kv slot d){rest} -> kv slot d{rest}", named(sum(slots))))
        ops.append(Split(1, slots))
        flat = f"kv slot d{rest} -> (kv slot d){rest}"
        ops.append(Each(tuple((Rearrange(flat, named(slot)),) for slot in slots)))
    elif len(roles) > 1:
        if mapping.fused == "interleaved":
            pattern = f"{lead}(row role){rest} -> {lead}(role row){rest}"
            ops.append(Rearrange(pattern, (("row", rows[0]), ("role", len(roles)))))
        ops.append(Split(1 if experts else 0, tuple(rows)))
    ops.append(Each(tuple((_ungroup(group, lead, sizes),) for group in groups)))
    return tuple(ops)


def _ungroup(groups: tuple[tuple[str, ...], ...], lead: str, sizes: dict[str, int]) -> Rearrange:
    before = " ".join(f"({' '.join(g)})" if len(g) > 1 else g[0] for g in groups)
    after = " ".join(axis for g in groups for axis in g)
    named = tuple((axis, sizes[axis]) for g in groups for axis in g)
    if lead:
        named = (("experts", sizes["experts"]), *named)
    return Rearrange(f"{lead}{before} -> {lead}{after}", named)
