"""A number format as one value: rounding, scales, storage, products, caches.

    steps     units in 1.0                    unit  = round(value * steps)
    scale     value of one unit               value = decode(unit) * scale

A maximum is the largest magnitude of a row, a group of neighbors in a row, a token, or a tensor. Each format is a file
of `compiler.quantization.formats` with the format's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from compiler.model.lazy import Packing

if TYPE_CHECKING:
    from torch import Tensor

Values = NDArray[np.float32]
Units = NDArray[Any]
"""Unpacked units: integers, or the bits of a small float as uint8."""


@dataclass(frozen=True)
class Product:
    """Product with weights in a format. `name`: in manifests and cache keys.

    `activations`: "float" keeps them in floating point; "token" rounds them to the format with a scale per token,
    computed while the model runs; "tensor" with one fixed scale of the input. `group`: neighbors in a row of the weight
    that share a scale; None: all.
    """

    name: str
    activations: Literal["float", "token", "tensor"]
    group: int | None = None


@dataclass(frozen=True)
class ActivationUse:
    """Activations in a format.

    `tokens`: torch; x [..., in], fixed scale float32 [1] or None -> units [..., in], scale of each token float32
    [..., 1]. `static`: canonical parts (`quantization/parts.py`) of a layer with static activations, from the largest
    |input|, the largest |output| and the steps of the weight's rows; `static_parts`: their names.
    """

    tokens: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
    static: Callable[[float, float, Values], Mapping[str, Values]]
    static_parts: tuple[str, ...]


@dataclass(frozen=True)
class CacheUse:
    """Keys and values in a format. `layer_scale`: scale of a layer, from its largest magnitude; `head_scales`: scales
    of the heads, from theirs, both [kv_heads].
    """

    layer_scale: Callable[[float], np.float32]
    head_scales: Callable[[Values], Values]


@dataclass(frozen=True)
class Format:
    """A format of `bits` bits. `dtype`, `torch_dtype`: names of its unpacked units in safetensors and in torch.

    `largest`: unit of a maximum. `steps`, `scales`: from maxima, of the same shape. `round`: scaled values to the
    nearest units, saturating; `decode`: units to float32. `products`: products with weights in this format, the usual
    one first. `group`: neighbors in a row that usually share a scale; None: one scale per row. `packing`: of several
    units per byte in the decoder's rank files. `activations`, `cache`: None where the format is not used for them.
    """

    name: str
    bits: int
    dtype: str
    torch_dtype: str
    largest: np.float32
    steps: Callable[[Values], Values]
    scales: Callable[[Values], Values]
    round: Callable[[Values], Units]
    decode: Callable[[Units], Values]
    products: tuple[Product, ...]
    group: int | None = None
    packing: Packing | None = None
    activations: ActivationUse | None = None
    cache: CacheUse | None = None

    def product(self, activations: str, group: int | None = None) -> Product | None:
        """Product with such `Product.activations`, and such a `group` where one is given; None: there is none."""
        found = (one for one in self.products if one.activations == activations and group in (None, one.group))
        return next(found, None)


def inverse(values: Values) -> Values:
    """Reciprocals, float32."""
    return np.divide(np.float32(1), values, dtype=np.float32)


def grouped(values: Values, size: int) -> Values:
    """Split rows into groups: [..., in] -> [..., in / size, size]. Raises ValueError where `size` does not divide."""
    if values.shape[-1] % size:
        raise ValueError(f"rows of {values.shape[-1]} do not divide into groups of {size}")
    return values.reshape(*values.shape[:-1], -1, size)


def nearest(weight: Values, scales: Values, form: Format) -> Values:
    """Weight [..., in] rounded to nearest with scales [..., in / group], and dequantized."""
    rows = grouped(weight, weight.shape[-1] // scales.shape[-1])
    values: Values = form.decode(form.round(rows / scales[..., None])) * scales[..., None]
    return values.reshape(weight.shape)


def group_maxima(weight: Values, size: int) -> Values:
    """Largest |W| of every group of neighbors: [..., in] -> [..., in / size]."""
    maxima: Values = np.abs(grouped(weight, size)).max(-1)
    return maxima


def as_float32(units: Units) -> Values:
    """`Format.decode` for integers."""
    return units.astype(np.float32)
