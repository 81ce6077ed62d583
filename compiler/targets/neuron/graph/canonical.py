"""Canonical form of a module: equal graphs have equal bytes, in every process and on every machine.

jax's lowering numbers instructions in 64 bits (computation << 32 | index), names them by counters of the process, and
records files and lines of the Python code. The canonical form

    numbers computations and instructions from 1, in their order
    names instructions by opcode and number, parameters by what they are
    drops metadata, stack frames, shardings and device lists; replica groups stay in the field that older XLA reads
    aliases every cache with its output: both must be one buffer
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.targets.neuron.graph.proto import MUST_ALIAS, entry_of, groups_of, parse, serialize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OF_MODULE = (
    "spmd_output_sharding", "spmd_parameters_shardings", "device_assignment", "stack_frame_index", "buffer_donor",
    "frontend_attributes", "input_output_alias", "id",
)  # fmt: skip
_OF_INSTRUCTION = (
    "metadata", "sharding", "frontend_attributes", "original_value", "all_reduce_id", "collective_device_list",
)  # fmt: skip


def canonical(data: bytes, name: str, parameters: Sequence[str], aliases: Mapping[int, int]) -> bytes:
    """Canonical form of a serialized HloModuleProto.

    `parameters`: name of each parameter of the entry computation, in order; `aliases`: parameter number of each aliased
    output, by its index in the result tuple.
    """
    module = parse(data)
    for field in _OF_MODULE:
        module.ClearField(field)
    module.name = name
    _renumber(module)
    _rename(module, parameters)
    for computation in module.computations:
        for instruction in computation.instructions:
            _simplify(instruction)
    for output, parameter in sorted(aliases.items()):
        module.input_output_alias.entries.add(output_shape_index=[output], parameter_number=parameter, kind=MUST_ALIAS)
    return serialize(module)


def _renumber(module: Any) -> None:
    of_computation = {computation.id: new for new, computation in enumerate(module.computations, 1)}
    everything = [one for computation in module.computations for one in computation.instructions]
    of_instruction = {one.id: new for new, one in enumerate(everything, 1)}
    for one in everything:
        one.id = of_instruction[one.id]
        for ids, numbers in (
            (one.operand_ids, of_instruction),
            (one.control_predecessor_ids, of_instruction),
            (one.called_computation_ids, of_computation),
        ):
            ids[:] = [numbers[old] for old in ids]
    for computation in module.computations:
        computation.root_id = of_instruction[computation.root_id]
        computation.id = of_computation[computation.id]
    module.entry_computation_id = of_computation[module.entry_computation_id]


def _rename(module: Any, parameters: Sequence[str]) -> None:
    entry = entry_of(module)
    for computation in module.computations:
        computation.name = "main" if computation is entry else f"region.{computation.id}"
        names = {}
        for one in computation.instructions:
            one.name = f"{one.opcode}.{one.id}"
            if one.opcode == "parameter":
                if computation is entry:
                    one.name = parameters[one.parameter_number]
                names[one.parameter_number] = one.name
        computation.program_shape.parameter_names[:] = [names[number] for number in sorted(names)]
    module.entry_computation_name = entry.name
    module.host_program_shape.parameter_names[:] = parameters


def _simplify(instruction: Any) -> None:
    """Drop fields of other compilers and processes from an instruction."""
    groups = groups_of(instruction)
    for field in _OF_INSTRUCTION:
        instruction.ClearField(field)
    instruction.ClearField("replica_groups")
    for group in groups:
        instruction.replica_groups.add(replica_ids=group)
