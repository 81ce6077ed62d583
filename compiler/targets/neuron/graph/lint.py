"""Rules for the bytes of a graph: what neuronx-cc is known to take, checked on the proto itself.

Operations are elementary ones of XLA, as the graphs of transformers-neuronx 0.13 have them, and the update of a slice.
Refusals follow the error pages of the Neuron SDK (August 2026): dynamic shapes
(EMOD025), complex and 64-bit types (EVRF005 and others), unknown custom calls (EHCA005). Whether a release of
neuronx-cc takes all of the list is not verified: `neuronx-cc list-operators` needs the compiler.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.targets.neuron.graph.proto import DTYPES, MUST_ALIAS, entry_of, groups_of, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from compiler.targets.neuron.graph.signature import GraphArgument

ALLOWED = frozenset({
    "abs", "add", "all-gather", "all-reduce", "all-to-all", "and", "broadcast", "clamp", "compare", "concatenate",
    "constant", "convert", "cosine", "divide", "dot", "dynamic-update-slice", "exponential", "gather", "iota",
    "maximum", "minimum", "multiply", "negate", "parameter", "reduce", "reduce-scatter", "reshape", "rsqrt", "scatter",
    "select", "sine", "slice", "subtract", "tanh", "transpose", "tuple",
})  # fmt: skip
"""Opcodes of HLO that a graph may have."""
DTYPES_ALLOWED = frozenset({"pred", "s8", "s32", "f16", "bf16", "f32"})
COLLECTIVES = frozenset({"all-gather", "all-reduce", "all-to-all", "reduce-scatter"})
_LARGEST_ID = 2**31 - 1
_OF_SAFETENSORS = {"I32": "s32", "I8": "s8", "F16": "f16", "BF16": "bf16", "F32": "f32"}


def problems(
    data: bytes, tp: int, inputs: Sequence[GraphArgument], outputs: Sequence[GraphArgument], aliases: Mapping[int, int]
) -> list[str]:
    """Violations of the rules in a serialized HloModuleProto, one line each; [] for none. Raises ValueError."""
    module = parse(data)
    found = list(_signature(module, inputs, outputs, aliases))
    ids = [one.id for computation in module.computations for one in computation.instructions]
    if len(set(ids)) != len(ids) or max(ids) > _LARGEST_ID or min(ids) < 1:
        found.append(f"ids of instructions are unique and 1 to {_LARGEST_ID}; found {min(ids)} to {max(ids)}")
    if module.is_dynamic:
        found.append("the module has dynamic shapes")
    for computation in module.computations:
        for one in computation.instructions:
            found += (f"{computation.name}: {one.name}: {text}" for text in _instruction(one, tp))
    return found


def _signature(
    module: Any, inputs: Sequence[GraphArgument], outputs: Sequence[GraphArgument], aliases: Mapping[int, int]
) -> Iterator[str]:
    shape = entry_of(module).program_shape
    for what, expected, found in (
        ("parameter", inputs, shape.parameters),
        ("output", outputs, shape.result.tuple_shapes),
    ):
        wanted = [(_OF_SAFETENSORS[one.dtype], one.shape) for one in expected]
        there = [(DTYPES.get(one.element_type, "?"), tuple(one.dimensions)) for one in found]
        if wanted != there:
            pairs = zip(wanted, there, strict=False)
            first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(wanted), len(there)))
            yield (
                f"{what} {first} of {len(there)}: "
                f"expected {wanted[first : first + 1]}, found {there[first : first + 1]}"
            )
    entries = module.input_output_alias.entries
    shared = {tuple(one.output_shape_index): one.parameter_number for one in entries if one.kind == MUST_ALIAS}
    if shared != {(output,): parameter for output, parameter in aliases.items()}:
        yield f"expected {len(aliases)} outputs in the buffers of their inputs, found {len(shared)}, or other ones"


def _instruction(one: Any, tp: int) -> Iterator[str]:
    if one.opcode not in ALLOWED:
        yield f"operation `{one.opcode}{' ' + one.custom_call_target if one.custom_call_target else ''}`"
    for shape in one.shape.tuple_shapes or (one.shape,):
        dtype = DTYPES.get(shape.element_type, str(shape.element_type))
        if dtype not in DTYPES_ALLOWED:
            yield f"dtype `{dtype}`"
        if any(shape.is_dynamic_dimension):
            yield "dynamic shape"
    if one.opcode in COLLECTIVES:
        groups = groups_of(one)
        if sorted(rank for group in groups for rank in group) != list(range(tp)):
            yield f"replica groups {groups}, expected each of {tp} ranks once"
        if len({len(group) for group in groups}) > 1:
            yield f"replica groups {groups} of different sizes"
        if one.channel_id > 0 or one.use_global_device_ids:
            yield "a collective between partitions, expected one between replicas"
    if one.opcode == "constant" and _has_nan(one.literal):
        yield "a constant with NaN"


def _has_nan(literal: Any) -> bool:
    # bfloat16 is the upper half of float32
    wide = np.frombuffer(literal.bf16s, "<u2").astype(np.uint32) << 16
    halves = np.frombuffer(literal.f16s, "<f2")
    return bool(
        any(math.isnan(value) for value in literal.f32s)
        or np.isnan(wide.view(np.float32)).any()
        or np.isnan(halves).any()
    )
