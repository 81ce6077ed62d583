"""Storage of quantized linear layers as compressed-tensors, and the section of config.json that says so.

| scheme           | weight of a linear layer       | weight_scale            | input           | format          |
|------------------|--------------------------------|-------------------------|-----------------|-----------------|
| smoothquant      | weight int8 [out, in]          | float32 [out, 1]        | int8 per token  | int-quantized   |
| fp8              | weight e4m3 [out, in]          | float32 [out, 1]        | e4m3 per token  | float-quantized |
| int4-weight, awq | weight_packed int32 [out, in/8]| model's [out, in / 128] | floating point  | pack-quantized  |
| int8-weight      | weight_packed int32 [out, in/4]| model's [out, 1]        | floating point  | pack-quantized  |

With static activations a layer has `input_scale` float32 [1], too. A word has neighbors of a row, the first in its
lowest bits, each 8 or 128 larger than it is. `weight_shape` int64 [2] must be in the file; no kernel reads it, and it
is zero. Source: schemes/compressed_tensors_w8a8_{int8,fp8}.py and _wNa16.py of vLLM 0.32.0 (parameters before the
kernels repack them); pack_quantized/helpers.py of compressed-tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compiler.decoder.rankfile.quantized import StoredWeight, stored_weight
from compiler.model.lazy import Lazy, Packing, cast, insert_axis
from compiler.quantization.formats import products
from compiler.quantization.vendors import COMPRESSED_TENSORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.quantization.format import Format, Product

PACKED: Mapping[str, Packing] = {
    "grouped": Packing(-1, 1, offset=8, word=4),
    "weight_only": Packing(-1, 1, bits=8, offset=128, word=4),
}
"""Packing of the weights by product; the weights of others are stored one by one."""
PACKED_WEIGHT, SHAPE, SCALE, INPUT_SCALE = "weight_packed", "weight_shape", "weight_scale", "input_scale"
"""Names of a layer's tensors, besides `weight` and `bias`."""


def stored(product: str) -> StoredWeight:
    """Weights of linear layers that are computed as `product`."""
    found = stored_weight(product)
    return replace(found, dtype="I32", torch_dtype="int32", packing=PACKED[product]) if product in PACKED else found


def as_stored(product: str, dtype: str, name: str, tensor: Lazy) -> Iterator[tuple[str, Lazy]]:
    """Tensors of the file for one of a rank plan, under vLLM's names. `dtype`: safetensors' name of the model's."""
    module, _, part = name.rpartition(".")
    packs = product in PACKED
    if part == "scale":
        rows = insert_axis(tensor, 1, 1) if len(tensor.shape) == 1 else tensor
        yield f"{module}.{SCALE}", cast(rows, dtype) if packs else rows
    elif part == "weight" and packs and tensor.quantize:
        yield f"{module}.{PACKED_WEIGHT}", tensor
        yield f"{module}.{SHAPE}", Lazy((2,), "I64", "I64", ())
    else:
        yield name, tensor


def with_quantization(config: bytes, scheme: str) -> bytes:
    """config.json `config` with the `quantization_config` of shards of `scheme`, a product's name; "": with none."""
    if not scheme:
        found = json.loads(config)
        changed = {name: value for name, value in found.items() if name != "quantization_config"}
        return config if changed == found else (json.dumps(changed, indent=2) + "\n").encode()
    form, product = products()[scheme]
    kind, name = COMPRESSED_TENSORS[form.name]
    section = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if scheme in PACKED else name,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], **_arguments(form, product, kind)}},
    }
    return (json.dumps({**json.loads(config), "quantization_config": section}, indent=2) + "\n").encode()


def _arguments(form: Format, product: Product, kind: str) -> dict[str, Any]:
    """Arguments of weights and inputs. A scale is that of a group, a row, a token or the whole input."""
    common: dict[str, Any] = {"num_bits": form.bits, "type": kind, "symmetric": True, "dynamic": False}
    weights = (
        {**common, "strategy": "group", "group_size": form.group} if form.group else {**common, "strategy": "channel"}
    )
    if product.activations == "float":
        return {"weights": weights, "input_activations": None}
    token = product.activations == "token"
    inputs = {**common, "strategy": "token" if token else "tensor", "dynamic": token}
    return {"weights": weights, "input_activations": inputs}
