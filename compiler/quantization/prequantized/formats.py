"""Formats in which other projects store quantized linear layers: detection and dequantization.

| quantization_config of config.json  | tensors of a module                  | W [out, in]                         |
|-------------------------------------|--------------------------------------|-------------------------------------|
| gptq, 4 bits, no act-order          | qweight I32 [in / 8, out]            | (q - z - 1) s; eight rows a word    |
|                                     | qzeros I32 [groups, out / 8]         | z: eight columns a word             |
|                                     | scales [groups, out], g_idx I32 [in] |                                     |
| awq, 4 bits, version gemm           | qweight I32 [in, out / 8]            | (q - z) s; eight columns a word, in |
|                                     | qzeros I32 [groups, out / 8]         | the order 0 2 4 6 1 3 5 7           |
|                                     | scales [groups, out]                 |                                     |
| compressed-tensors, int-quantized   | weight I8                            | q s                                 |
|                                     | weight_scale [out, 1]                |                                     |
| compressed-tensors, float-quantized | weight F8_E4M3                       | q s                                 |
|                                     | weight_scale [out, 1] or [1]         |                                     |
| fp8 with weight_block_size [a, b]   | weight F8_E4M3                       | q s; a x b neighbors share s        |
|                                     | weight_scale_inv F32                 |                                     |
|                                     | [ceil(out / a), ceil(in / b)]        |                                     |
| mxfp4                               | _blocks U8 [experts, out, in/32, 16] | e 2^(s - 127); two elements e of    |
|                                     | _scales U8 [experts, out, in / 32]   | e2m1 a byte, the lower half first   |

The formats are those of AutoGPTQ, AutoAWQ, compressed-tensors, DeepSeek-V3 and gpt-oss (OCP Microscaling Formats 1.0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.errors import RefusedError
from compiler.quantization.format import Values
from compiler.quantization.formats import fp8
from compiler.quantization.schemes import SCHEMES

Arrays = Mapping[str, NDArray[Any]]
"""Tensors of a module by suffix; scales as float32."""

GPTQ, AWQ = "gptq", "awq"
"""`quant_method` of AutoGPTQ and AutoAWQ."""
TAKE_ORIGINAL = "quantize the original model instead"
_WITH_ZEROS = (".qzeros", ".scales")
CACHE_SCALES = ("k_scale", "v_scale", "q_scale", "kv_scale", "k_zero_point", "v_zero_point", "output_scale")
"""Suffixes of the scales of a quantized KV cache, which compressed-tensors and others store beside the weights."""
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Packed:
    """Quantization of a checkpoint. `scheme`: name in quantization/schemes.py of the one with the same integers, or "".

    `weight`: end of the name of the tensor with the integers; `others`: those of its scales and zeros; `required`: of
    them, those that every module with integers has; `written`: that of W. `shape`: shape of W from that of the
    integers. `rows`: some rows of W [n, in], the experts' one after the other, and their scales [n, groups]; raises
    ValueError where tensors contradict config.json. `group`: neighbors in a row that share a scale; 0: a whole row.
    """

    name: str
    scheme: str
    weight: str
    others: tuple[str, ...]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    rows: Callable[[Arrays, slice], tuple[Values, Values]]
    group: int = 0
    required: tuple[str, ...] = ()
    written: str = ".weight"

    @property
    def text(self) -> str:
        """Note for the plan."""
        keeps = f"; `--quant {self.scheme}` keeps its integers" if self.scheme else ""
        return f"quantized by {self.name}, dequantized{keeps}"


def packed(hf: Mapping[str, Any]) -> Packed | None:
    """Quantization of a checkpoint with this config.json; None where there is none. Raises RefusedError."""
    found = hf.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    read = _METHODS.get(str(found.get("quant_method")))
    if read is None:
        raise RefusedError(
            f"the checkpoint is quantized by `{found.get('quant_method')}`; expected one of {', '.join(_METHODS)}",
            hint=TAKE_ORIGINAL,
        )
    return read(found)


def _nibbles(words: NDArray[Any], axis: int) -> NDArray[np.int32]:
    """Unpack every word of `words` [a, b] to eight four-bit integers along `axis`, the lowest bits first."""
    each = np.stack([np.asarray(words, np.int32) >> shift & 15 for shift in range(0, 32, 4)], axis + 1)
    return each.reshape([size * (8 if i == axis else 1) for i, size in enumerate(words.shape)])


def _grouped(q: NDArray[np.int32], z: NDArray[np.int32], s: Values) -> tuple[Values, Values]:
    """Dequantize: q [in, n], z and s [groups, n] -> W [n, in], s [n, groups]."""
    size = len(q) // len(s)
    values = (q.reshape(len(s), size, -1) - z[:, None]) * s[:, None]
    return np.ascontiguousarray(values.reshape(len(q), -1).T, np.float32), np.ascontiguousarray(s.T)


def _of_gptq(arrays: Arrays, rows: slice) -> tuple[Values, Values]:
    words = slice(rows.start // 8, -(-rows.stop // 8))
    order, groups = arrays.get(".g_idx"), len(arrays[".scales"])
    if order is not None and not np.array_equal(order, np.arange(len(order)) * groups // len(order)):
        raise ValueError("`g_idx` scatters the groups of a row (act-order), but config.json has no `desc_act`")
    zeros = (_nibbles(arrays[".qzeros"][:, words], 1)[:, : rows.stop - rows.start] + 1) & 15
    return _grouped(_nibbles(arrays[".qweight"][:, rows], 0), zeros, arrays[".scales"][:, rows])


def _of_symmetric_gptq(arrays: Arrays, rows: slice) -> tuple[Values, Values]:
    words = slice(rows.start // 8, -(-rows.stop // 8))
    if (_nibbles(arrays[".qzeros"][:, words], 1)[:, : rows.stop - rows.start] != 7).any():
        raise ValueError("config.json has `sym`, but there are zero points other than 8")
    return _of_gptq(arrays, rows)


def _of_awq(arrays: Arrays, rows: slice) -> tuple[Values, Values]:
    words = slice(rows.start // 8, -(-rows.stop // 8))

    def columns(name: str) -> NDArray[np.int32]:
        found = _nibbles(arrays[name][:, words], 1)
        runs = found.reshape(len(found), -1, 8)
        ordered = np.empty_like(runs)
        ordered[..., list(_AWQ_ORDER)] = runs
        return ordered.reshape(found.shape)[:, : rows.stop - rows.start]

    return _grouped(columns(".qweight"), columns(".qzeros"), arrays[".scales"][:, rows])


def _of_rows(arrays: Arrays, rows: slice) -> tuple[Values, Values]:
    weight, scale = np.asarray(arrays[".weight"][rows]), arrays[".weight_scale"].reshape(-1, 1)
    scales = scale[rows] if len(scale) > 1 else np.broadcast_to(scale, (len(weight), 1))
    values = fp8.decode(weight) if weight.dtype == np.uint8 else weight.astype(np.float32)
    return values * scales, np.ascontiguousarray(scales)


def _group(found: Mapping[str, Any]) -> int:
    """Group size of GPTQ and AutoAWQ, where -1 is a whole row. Raises RefusedError."""
    size = found.get("group_size", found.get("q_group_size"))
    if size == -1:
        return 0
    if type(size) is not int or size < 8 or size % 8:
        raise RefusedError(
            f"groups are a multiple of 8 neighbors, or whole rows (-1); found `group_size` {size!r}", hint=TAKE_ORIGINAL
        )
    return size


def _gptq(found: Mapping[str, Any]) -> Packed:
    form = str(found.get("checkpoint_format") or "gptq")
    if found.get("bits") != 4 or form != "gptq":
        raise RefusedError(
            f"GPTQ is read with 4 bits in format gptq; found {found.get('bits')} in {form}", hint=TAKE_ORIGINAL
        )
    if found.get("desc_act"):
        raise RefusedError(
            "GPTQ with act-order (`desc_act`) scatters the groups of a row: no target here has kernels for it",
            hint=f"use a revision without act-order, or {TAKE_ORIGINAL}",
        )
    if found.get("dynamic"):
        raise RefusedError("GPTQ is read with one format for all modules; found `dynamic`", hint=TAKE_ORIGINAL)
    symmetric = bool(found.get("sym"))
    scheme = "int4-weight" if symmetric and found.get("group_size") == SCHEMES["int4-weight"].group else ""
    rows = _of_symmetric_gptq if symmetric else _of_gptq
    return Packed(
        "GPTQ",
        scheme,
        ".qweight",
        (".qzeros", ".scales", ".g_idx"),
        lambda s: (s[1], s[0] * 8),
        rows,
        _group(found),
        _WITH_ZEROS,
    )


def _awq(found: Mapping[str, Any]) -> Packed:
    version = str(found.get("version") or "gemm").lower()
    bits = found.get("bits") or found.get("w_bit")
    if bits != 4 or version != "gemm":
        raise RefusedError(
            f"AutoAWQ is read with 4 bits in version gemm; found {bits} in {version}", hint=TAKE_ORIGINAL
        )
    # No scheme here has its zero points.
    return Packed(
        "AutoAWQ", "", ".qweight", _WITH_ZEROS, lambda s: (s[1] * 8, s[0]), _of_awq, _group(found), _WITH_ZEROS
    )


def _compressed(found: Mapping[str, Any]) -> Packed:
    groups = list((found.get("config_groups") or {}).values())
    form = str(found.get("format"))
    weights = groups[0].get("weights") or {} if len(groups) == 1 else {}
    inputs = groups[0].get("input_activations") or {} if len(groups) == 1 else {}
    known = {"int-quantized": ("int", ("channel",)), "float-quantized": ("float", ("channel", "tensor"))}
    kind, strategies = known.get(form, ("", ()))
    said = weights.get("type"), weights.get("num_bits"), weights.get("symmetric")
    if said != (kind, 8, True) or weights.get("strategy") not in strategies:
        raise RefusedError(
            "compressed-tensors are read with one group of 8-bit weights, symmetric, int-quantized with scales "
            f"per channel or float-quantized; found {form}, {len(groups)} group(s), {weights or 'no weights'}",
            hint=TAKE_ORIGINAL,
        )
    dynamic = inputs.get("dynamic") is True and inputs.get("strategy") == "token"
    if kind == "float":
        scheme = "fp8" if inputs else ""
    else:
        scheme = "int8-weight" if not inputs else "smoothquant" if dynamic else ""
    others = (".weight_scale", ".weight_zero_point", ".input_scale", ".input_zero_point")
    return Packed(f"compressed-tensors {form}", scheme, ".weight", others, lambda s: s, _of_rows)


def _of_blocks(size: tuple[int, int], arrays: Arrays, rows: slice) -> tuple[Values, Values]:
    weight, scale = np.asarray(arrays[".weight"][rows]), arrays[".weight_scale_inv"]
    if scale.shape != (-(-len(arrays[".weight"]) // size[0]), -(-weight.shape[1] // size[1])):
        raise ValueError(f"`weight_scale_inv` {list(scale.shape)} does not have a scale for each block of {list(size)}")
    of_rows = np.ascontiguousarray(scale[np.arange(rows.start, rows.start + len(weight)) // size[0]])
    return fp8.decode(weight) * np.repeat(of_rows, size[1], 1)[:, : weight.shape[1]], of_rows


def _fp8(found: Mapping[str, Any]) -> Packed:
    size = found.get("weight_block_size")
    blocks = size if isinstance(size, list) and all(type(n) is int and n > 0 for n in size) else []
    if len(blocks) != 2 or found.get("fmt", "e4m3") != "e4m3":
        raise RefusedError(
            "fp8 is read in e4m3 with `weight_block_size` [rows, columns]; found "
            f"{found.get('fmt', 'e4m3')!r} with {size!r}",
            hint=TAKE_ORIGINAL,
        )
    rows = partial(_of_blocks, (blocks[0], blocks[1]))
    return Packed("fp8 in blocks", "", ".weight", (".weight_scale_inv",), lambda s: s, rows)


_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_E8M0 = np.append(np.exp2(np.arange(-127, 128, dtype=np.float64)), np.nan)


def _of_mxfp4(arrays: Arrays, rows: slice) -> tuple[Values, Values]:
    packs, scales = arrays["_blocks"], arrays["_scales"]
    pairs = np.asarray(packs.reshape(-1, *packs.shape[-2:])[rows])
    of_rows = _E8M0[np.asarray(scales.reshape(-1, scales.shape[-1])[rows])].astype(np.float32)
    values = _E2M1[np.stack((pairs & 15, pairs >> 4), -1)].reshape(*of_rows.shape, 32) * of_rows[..., None]
    return values.reshape(len(values), -1), of_rows


def _mxfp4(_: Mapping[str, Any]) -> Packed:
    return Packed(
        "mxfp4", "", "_blocks", ("_scales",), lambda s: (*s[:2], s[2] * 32), _of_mxfp4, written="_blocks"
    )  # fmt: skip


_METHODS = {
    GPTQ: _gptq,
    AWQ: _awq,
    "compressed-tensors": _compressed,
    "fp8": _fp8,
    "mxfp4": _mxfp4,
}
"""Readers of `quantization_config`, by `quant_method`."""
