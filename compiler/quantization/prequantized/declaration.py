"""Declarations of a checkpoint's quantization in files of their own, as older and other programs write them.

| file                 | program        | content                                                                  |
|----------------------|----------------|--------------------------------------------------------------------------|
| quantize_config.json | AutoGPTQ       | bits, group_size, desc_act, sym: `quantization_config` without a method  |
| quant_config.json    | AutoAWQ        | w_bit, q_group_size, zero_point, version                                 |
| hf_quant_config.json | TensorRT       | {"producer": {"name"}, "quantization": {"quant_algo"}}                   |
|                      | Model Optimizer|                                                                          |

They count where config.json has no `quantization_config` and the checkpoint has quantized tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compiler.errors import RefusedError
from compiler.quantization.prequantized.formats import AWQ, GPTQ, TAKE_ORIGINAL
from compiler.storage.checkpoints.checkpoint import read_object

if TYPE_CHECKING:
    from compiler.storage.checkpoints.checkpoint import Checkpoint

KEY = "quantization_config"


@dataclass(frozen=True)
class Declaration:
    """A file that declares a quantization. `evidence`: suffix of the tensors that prove it; `read`: from its content to
    the `quantization_config` of config.json.
    """

    file: str
    evidence: str
    read: Callable[[Mapping[str, Any]], dict[str, Any]]


def _modelopt(found: Mapping[str, Any]) -> dict[str, Any]:
    producer, how = found.get("producer"), found.get("quantization")
    name = producer.get("name") if isinstance(producer, Mapping) else None
    algorithm = how.get("quant_algo") if isinstance(how, Mapping) else None
    raise RefusedError(
        f"hf_quant_config.json says that the checkpoint is quantized by `{name}` to `{algorithm}`; expected {GPTQ}, "
        f"{AWQ} or compressed-tensors",
        hint=TAKE_ORIGINAL,
    )


DECLARATIONS = (
    Declaration("quantize_config.json", ".qweight", lambda found: {"quant_method": GPTQ, **found}),
    Declaration("quant_config.json", ".qweight", lambda found: {"quant_method": AWQ, **found}),
    Declaration("hf_quant_config.json", ".weight_scale", _modelopt),
)


def with_declaration(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, with the declaration of its quantization in its config and a note on where it was found.

    Raises RefusedError for formats that are not read, CheckpointError for files that are no JSON objects.
    """
    if isinstance(checkpoint.config.get(KEY), Mapping):
        return checkpoint
    for one in DECLARATIONS:
        path = checkpoint.folder / one.file
        if path.is_file() and any(name.endswith(one.evidence) for name in checkpoint.tensors):
            found = one.read(read_object(path, hint="download the file again"))
            note = f"quantization as {one.file} says: config.json has no `{KEY}`"
            config = {**checkpoint.config, KEY: found}
            return replace(checkpoint, config=config, declared=path, notes=(*checkpoint.notes, note))
    return checkpoint
