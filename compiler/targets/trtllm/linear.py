"""Quantized linear modules in the rank files: the weight of each `quant_algo`, and its companion tensors.

| quant_algo                  | weight                   | companions; float32 unless the dtype is named               |
|-----------------------------|--------------------------|-------------------------------------------------------------|
| FP8                         | e4m3 [out, in]           | weights_scaling_factor [1], of experts [E, 1]               |
|                             |                          | activation_scaling_factor [1]                               |
| W4A16_AWQ                   | int8 [out / 2, in], rows | weights_scaling_factor [out, in / 128] of the files' dtype  |
|                             | 2 i in the lower half    | prequant_scaling_factor [in] of the files' dtype            |
| W8A8_SQ_PER_CHANNEL         | int8 [out, in]           | weights_scaling_factor [out]; activation_scaling_factor [1] |
|                             |                          | prequant_scaling_factor [in] of the files' dtype            |
| W8A8_SQ_PER_c_PER_t_PLUGIN, | int8 [out, in]           | smoother [1, in] of dense and proj                          |
| W8A8_SQ_PER_TENSOR_PLUGIN   |                          | scale_to_int [1] of the two norms                           |
|   c = CHANNEL, and qkv      |                          | per_channel_scale [1, out]                                  |
|   c = TENSOR, all but qkv   |                          | per_channel_scale [1, 1]                                    |
|   t = TENSOR                |                          | act_scale [1, 1]; quantization_scaling_factor [1] of        |
|                             |                          | attention (for dense) and of mlp (for proj)                 |
| any, with a quantized cache |                          | attention.kv_cache_scaling_factor [1]                       |

Values are those of the canonical tensors (`quantization/parts.py`), split and joined like the rows and columns that
they belong to; weights are rounded by their steps while they stream, unless they are quantized in the checkpoint. The
scale of a matrix is that of the unsplit matrix, the same on all ranks. Routers, embedding and lm_head stay in floating
point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compiler.model.lazy import Packing
from compiler.model.roles import TensorId
from compiler.quantization.formats import load
from compiler.quantization.schemes import SCHEMES
from compiler.quantization.vendors import FP8, NATIVE, VENDOR_SCHEMES, W4A16_AWQ, VendorScheme
from compiler.targets.trtllm.options import TrtllmOptions

FC = ("mlp.gate", "mlp.plain", "mlp.up_gate")
"""File roles that are written as `mlp.fc`."""
LINEAR = (*FC, "attn.qkv", "attn.o", "mlp.up", "mlp.down",
          "moe.up_gate", "moe.down", "shared.up_gate", "shared.down")  # fmt: skip
"""File roles that are quantized."""


@dataclass(frozen=True)
class Companion:
    """Companion tensor in the file, from one part of a linear module's canonical tensors.

    `name`: {module} is the module's name, {layer} its layer's. `modules`: file roles that have it. `matrix`: whether an
    axis of size one is prepended. `dtype` None: the files' dtype. `of`: index of the joined layer from which a part
    that they share is taken.
    """

    name: str
    part: str
    modules: tuple[str, ...] = LINEAR
    matrix: bool = False
    dtype: str | None = "F32"
    of: int = 0

    def inputs(self, layers: tuple[TensorId, ...]) -> tuple[TensorId, ...]:
        """Inputs for joined `layers`: parts with a value per row from each layer, others from one."""
        parts = tuple(TensorId(t.role, self.part, t.layer) for t in layers)
        return parts if self.part in _OF_ROWS else parts[self.of : self.of + 1]


_OF_ROWS = ("scale", "accumulated", "group_scale", "steps", "group_steps")


@dataclass(frozen=True)
class ModuleTensors:
    """Tensors of a quantized linear module. `format`: number format of the weights; `dtype`: safetensors name of their
    dtype in the files; `packing`: of 4-bit weights. `grouped`: one scale per group.
    """

    format: str
    dtype: str
    packing: Packing | None
    companions: tuple[Companion, ...]
    grouped: bool

    @property
    def steps(self) -> Companion:
        """Steps by which weights are rounded; in no file."""
        return Companion("", "group_steps" if self.grouped else "steps")

    @property
    def columns(self) -> Companion:
        """Factors by which columns are multiplied before rounding; in no file."""
        return Companion("", "columns")


def _per_row(of_rows: str, of_all: str) -> tuple[Companion, Companion]:
    """per_channel_scale of PER_TENSOR modes: q, k and v have one scale each, so their joined matrix has one per row."""
    others = tuple(role for role in LINEAR if role != "attn.qkv")
    return (
        Companion("{module}.per_channel_scale", of_rows, ("attn.qkv",), matrix=True),
        Companion("{module}.per_channel_scale", of_all, others, matrix=True),
    )


_SMOOTHER = Companion("{module}.smoother", "columns", ("attn.o", "mlp.down"), matrix=True)
_NORMS = (
    Companion("{layer}.input_layernorm.scale_to_int", "input_steps", ("attn.qkv",)),
    Companion("{layer}.post_layernorm.scale_to_int", "input_steps", FC),
)
_PER_TOKEN = (_SMOOTHER, *_NORMS)
_STATIC = (
    *_PER_TOKEN,
    Companion("{layer}.attention.quantization_scaling_factor", "input_steps", ("attn.o",)),
    Companion("{layer}.mlp.quantization_scaling_factor", "input_steps", ("mlp.down",)),
    Companion("{module}.act_scale", "output_scale", matrix=True),
)
_ACTIVATION = Companion("{module}.activation_scaling_factor", "input_scale")
_PREQUANT = Companion("{module}.prequant_scaling_factor", "prequant", dtype=None)

_PLUGIN: Mapping[tuple[bool, bool], tuple[Companion, ...]] = {
    (True, True): (Companion("{module}.per_channel_scale", "scale", matrix=True), *_PER_TOKEN),
    (False, True): (*_per_row("scale", "matrix_scale"), *_PER_TOKEN),
    (True, False): (Companion("{module}.per_channel_scale", "accumulated", matrix=True), *_STATIC),
    (False, False): (*_per_row("accumulated", "matrix_accumulated"), *_STATIC),
}
"""Companions of the plugin's schemes by (per channel, per token)."""
_SCALES: Mapping[str, tuple[Companion, ...]] = {
    FP8: (Companion("{module}.weights_scaling_factor", "matrix_scale"), _ACTIVATION),
    W4A16_AWQ: (Companion("{module}.weights_scaling_factor", "group_scale", dtype=None), _PREQUANT),
    NATIVE: (Companion("{module}.weights_scaling_factor", "scale"), _ACTIVATION, _PREQUANT),
}
_ROW_PAIRS = Packing(-2, 1)


def _tensors(row: VendorScheme) -> ModuleTensors:
    form = load(SCHEMES[row.scheme].weights)
    tensors = _PLUGIN[row.per_channel, row.per_token] if row.plugin else _SCALES[row.name]
    return ModuleTensors(form.name, form.dtype, _ROW_PAIRS if form.packing else None, tensors, row.group is not None)


STORED: Mapping[str, ModuleTensors] = {
    row.name: _tensors(row) for row in VENDOR_SCHEMES.values() if row.dense and not row.rounded_at_load
}
"""Tensors by quant_algo, for schemes whose checkpoints have scales."""

_CACHE = Companion("{layer}.attention.kv_cache_scaling_factor", "cache_scale", ("attn.qkv",), of=1)


def stored_as(file_role: str, part: str, options: TrtllmOptions) -> ModuleTensors | None:
    """Tensors that a file tensor's weight is stored as; None if it is not quantized."""
    return STORED.get(options.quant_algo) if part == "weight" and file_role in LINEAR else None


def companions(file_role: str, part: str, options: TrtllmOptions) -> tuple[Companion, ...]:
    """Companion tensors of a file tensor."""
    stored = stored_as(file_role, part, options)
    found = stored.companions if stored else ()
    if options.kv_cache_quant_algo and part == "weight":
        found = (*found, _CACHE)
    return tuple(tensor for tensor in found if file_role in tensor.modules)
