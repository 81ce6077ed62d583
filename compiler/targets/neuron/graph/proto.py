"""HloModuleProto: the few fields that are read or rewritten here. All other fields pass through unchanged.

Field numbers are those of openxla/xla, xla/service/hlo.proto and xla/xla_data.proto (commit 0b8fa9f, read 2026-11-30);
protobuf keeps unknown fields of a message and writes them behind the known ones.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

MUST_ALIAS = 2
"""Kind of an entry of HloInputOutputAliasProto: output and parameter are one buffer."""

DTYPES = {
    1: "pred", 2: "s8", 3: "s16", 4: "s32", 5: "s64", 6: "u8", 7: "u16", 8: "u32", 9: "u64", 10: "f16", 11: "f32",
    12: "f64", 13: "tuple", 14: "opaque", 15: "c64", 16: "bf16", 17: "token", 18: "c128", 19: "f8e5m2",
    20: "f8e4m3fn", 21: "s4", 22: "u4",
}  # fmt: skip
"""Names of xla.PrimitiveType by their numbers."""


class Field(NamedTuple):
    """Number and type of a field: a scalar type of protobuf, or another message of `_MESSAGES`."""

    number: int
    type: str
    repeated: bool = False


_MESSAGES: dict[str, dict[str, Field]] = {
    "Module": {
        "name": Field(1, "string"),
        "entry_computation_name": Field(2, "string"),
        "computations": Field(3, "Computation", repeated=True),
        "host_program_shape": Field(4, "ProgramShape"),
        "id": Field(5, "int64"),
        "entry_computation_id": Field(6, "int64"),
        "input_output_alias": Field(8, "Aliases"),
        "is_dynamic": Field(11, "bool"),
        "spmd_output_sharding": Field(12, "bytes"),
        "spmd_parameters_shardings": Field(14, "bytes", repeated=True),
        "device_assignment": Field(15, "bytes"),
        "stack_frame_index": Field(17, "bytes"),
        "buffer_donor": Field(18, "bytes"),
        "frontend_attributes": Field(19, "bytes"),
    },
    "Computation": {
        "name": Field(1, "string"),
        "instructions": Field(2, "Instruction", repeated=True),
        "program_shape": Field(4, "ProgramShape"),
        "id": Field(5, "int64"),
        "root_id": Field(6, "int64"),
    },
    "Instruction": {
        "name": Field(1, "string"),
        "opcode": Field(2, "string"),
        "shape": Field(3, "Shape"),
        "metadata": Field(7, "bytes"),
        "literal": Field(8, "Literal"),
        "parameter_number": Field(9, "int64"),
        "channel_id": Field(26, "int64"),
        "custom_call_target": Field(28, "string"),
        "id": Field(35, "int64"),
        "operand_ids": Field(36, "int64", repeated=True),
        "control_predecessor_ids": Field(37, "int64", repeated=True),
        "called_computation_ids": Field(38, "int64", repeated=True),
        "sharding": Field(40, "bytes"),
        "all_reduce_id": Field(45, "int64"),
        "replica_groups": Field(49, "Group", repeated=True),
        "frontend_attributes": Field(68, "bytes"),
        "use_global_device_ids": Field(71, "bool"),
        "collective_device_list": Field(87, "DeviceList"),
        "original_value": Field(88, "bytes"),
    },
    "Shape": {
        "element_type": Field(2, "int32"),
        "dimensions": Field(3, "int64", repeated=True),
        "tuple_shapes": Field(4, "Shape", repeated=True),
        "is_dynamic_dimension": Field(6, "bool", repeated=True),
    },
    "ProgramShape": {
        "parameters": Field(1, "Shape", repeated=True),
        "result": Field(2, "Shape"),
        "parameter_names": Field(3, "string", repeated=True),
    },
    "Literal": {
        "f32s": Field(8, "float", repeated=True),
        "f16s": Field(11, "bytes"),
        "bf16s": Field(13, "bytes"),
    },
    "Group": {"replica_ids": Field(1, "int64", repeated=True)},
    "DeviceList": {"replica_groups": Field(1, "Group", repeated=True)},
    "Aliases": {"entries": Field(1, "Alias", repeated=True)},
    "Alias": {
        "output_shape_index": Field(1, "int64", repeated=True),
        "parameter_number": Field(2, "int64"),
        "parameter_shape_index": Field(3, "int64", repeated=True),
        "kind": Field(4, "int32"),
    },
}


@cache
def _classes() -> dict[str, Any]:
    """Classes of the messages, in a pool of their own: other packages may know the real ones."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="hlo_fields.proto", package="hlo_fields", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, field in fields.items():
            own = field.type in _MESSAGES
            message.field.add(
                name=field_name,
                number=field.number,
                label=kinds.LABEL_REPEATED if field.repeated else kinds.LABEL_OPTIONAL,
                type=kinds.TYPE_MESSAGE if own else getattr(kinds, f"TYPE_{field.type.upper()}"),
                type_name=f".hlo_fields.{field.type}" if own else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"hlo_fields.{name}")) for name in _MESSAGES
    }


def parse(data: bytes) -> Any:
    """The message of a serialized HloModuleProto. Raises ValueError where it is none."""
    from google.protobuf.message import DecodeError

    module = _classes()["Module"]()
    try:
        module.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"no HloModuleProto: {error}") from error
    if not module.computations:
        raise ValueError("no HloModuleProto: it has no computations")
    return module


def serialize(module: Any) -> bytes:
    """The bytes of a message: equal messages give equal bytes."""
    data: bytes = module.SerializeToString(deterministic=True)
    return data


def entry_of(module: Any) -> Any:
    """The entry computation of a module."""
    return next(one for one in module.computations if one.id == module.entry_computation_id)


def groups_of(instruction: Any) -> tuple[tuple[int, ...], ...]:
    """Replica groups of a collective, in the field that neuronx-cc's generation of XLA reads, else in the newer one."""
    groups = instruction.replica_groups or instruction.collective_device_list.replica_groups
    return tuple(tuple(group.replica_ids) for group in groups)
