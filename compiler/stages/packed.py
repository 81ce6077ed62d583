"""Checkpoints whose linear layers are quantised already, read as the floating-point weights that they stand for.

| quantization_config of config.json  | of a module                          | W [out, in]                         |
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

The formats are those of AutoGPTQ, AutoAWQ and compressed-tensors. The weights are rewritten once, in the dtype that
config.json names, as pickles are (`unpickle.py`). Rounding them to that dtype moves them by less than half of what an
integer is worth: by the checkpoint's own scales (`Checkpoint.own`) they become the same integers again, which is how a
quantised checkpoint is repacked for a target without being quantised anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.errors import CheckpointError, RefusedError
from compiler.ir.lazy import ITEMSIZE, Lazy
from compiler.quant import fp8
from compiler.quant.asked import Quant
from compiler.quant.schemes import SCHEMES
from compiler.store.cast import cast_bits
from compiler.store.checkpoint import Checkpoint, SourceTensor
from compiler.store.digest import digest_json
from compiler.store.header import HeaderError, read_header
from compiler.store.writer import RankFile

Values = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]
"""Of a module by suffix, mapped; scales as float32."""

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_ROWS = 256
"""Of W unpacked at a time; a multiple of 8."""
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_UNQUANTISED = "name the model that it was made from, and quantise that"


@dataclass(frozen=True)
class Packed:
    """`scheme`: of the table in quant/schemes.py whose numbers these are, "" for none of them. `weight`: suffix of the
    tensor that has the integers, `others` of those beside it. `shape`: of W, from that tensor's. `rows`: some rows of W
    [n, in], and what a unit of them is worth [n, groups].
    """

    name: str
    scheme: str
    weight: str
    others: tuple[str, ...]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    rows: Callable[[Arrays, slice], tuple[Values, Values]]

    @property
    def text(self) -> str:
        """What a plan says of it."""
        keeps = f"; `--quant {self.scheme}` keeps its integers" if self.scheme else ""
        return f"quantised by {self.name}, read as floating point{keeps}"


def packed(hf: Mapping[str, Any]) -> Packed | None:
    """How a checkpoint with this config.json is quantised; None: it is not. Raises RefusedError."""
    found = hf.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    read = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed}.get(str(found.get("quant_method")))
    if read is None:
        raise RefusedError(
            f"the checkpoint is quantised by `{found.get('quant_method')}`; expected gptq, awq or compressed-tensors",
            hint=_UNQUANTISED,
        )
    return read(found)


def will_be(checkpoint: Checkpoint, how: Packed) -> Checkpoint:
    """The checkpoint as it will be once its weights are rewritten: their data are not there yet."""
    dtype = _dtype(checkpoint.config)
    tensors = dict(checkpoint.tensors)
    for module in _modules(checkpoint, how):
        shape = how.shape(tensors[f"{module}.{how.weight}"].shape)
        for suffix in (how.weight, *how.others):
            tensors.pop(f"{module}.{suffix}", None)
        name = f"{module}.weight"
        tensors[name] = SourceTensor(name, dtype, shape, None, 0, prod(shape) * ITEMSIZE[dtype])
    return replace(checkpoint, tensors=tensors)


def rewrite(checkpoint: Checkpoint, how: Packed, scratch: Path) -> Checkpoint:
    """The checkpoint with floating-point weights, written into a folder of `scratch` where they are not there yet.

    Raises CheckpointError (zero points that config.json denies), RefusedError, DiskFullError.
    """
    facts = [[str(p.absolute()), p.stat().st_size, p.stat().st_mtime_ns, p.stat().st_ino] for p in checkpoint.files]
    folder = scratch / f"unpacked-{digest_json([how.name, facts])[7:39]}"
    after = will_be(checkpoint, how)
    modules = _modules(checkpoint, how)
    weights = {f"{m}.weight": after.tensors[f"{m}.weight"] for m in modules}
    files = folder / "weights.safetensors", folder / "scales.safetensors"
    if not all(map(_whole, files)):
        _write(checkpoint, how, modules, [(name, t.dtype, t.shape) for name, t in weights.items()], files)
    tensors, own = dict(after.tensors), {}
    for name, entry in read_header(files[0]).items():
        tensors[name] = SourceTensor(name, entry.dtype, entry.shape, files[0], entry.offset, entry.nbytes)
    for name, entry in read_header(files[1]).items():
        own[name] = SourceTensor(name, entry.dtype, entry.shape, files[1], entry.offset, entry.nbytes)
    return replace(after, tensors=tensors, own=own if how.scheme else {})


def checked(quant: Quant, how: Packed | None) -> Quant:
    """What is asked of a checkpoint that is quantised as `how` says: its own scheme keeps its integers, none takes its
    weights as floating point. Raises RefusedError for others: rounding twice loses twice.
    """
    if how is None or quant.scheme is None:
        return quant
    own = SCHEMES.get(how.scheme)
    if own is None or quant.scheme.name != own.name or quant.scheme.weight_scales != own.weight_scales:
        keeps = f"`--quant {own.name}` keeps its integers, " if own else ""
        raise RefusedError(
            f"the checkpoint is quantised already, by {how.name}; `{quant.scheme.name}` would round it a second time",
            hint=f"{keeps}no `--quant` takes its weights as floating point; or {_UNQUANTISED}",
        )
    return replace(quant, scheme=replace(quant.scheme, search=""))


def own_scales(checkpoint: Checkpoint, matrix: Lazy) -> Values:
    """What a unit of `matrix` [..., out, in] is worth: [..., out, groups]. Raises RefusedError."""
    found: Values | None = None
    for piece in matrix.pieces:
        width = checkpoint.tensors[piece.source].shape[-1]
        if piece.source not in checkpoint.own or piece.strides[-1] != 1 or piece.shape[-1] != width:
            raise RefusedError(
                f"`{piece.source}` has no integers of its own that could be kept row by row",
                hint=f"leave `--quant` out; or {_UNQUANTISED}",
            )
        own = checkpoint.own[piece.source]
        assert own.file is not None
        index = np.full(piece.shape[:-1], piece.start)
        for axis, (size, stride) in enumerate(zip(piece.shape[:-1], piece.strides[:-1], strict=True)):
            index += (np.arange(size) * stride).reshape([-1 if i == axis else 1 for i in range(index.ndim)])
        scales = np.memmap(own.file, "<f4", "r", own.offset, own.shape)[index // width]
        if found is None:
            found = np.zeros((*matrix.shape[:-1], scales.shape[-1]), np.float32)
        found[tuple(slice(a, a + n) for a, n in zip(piece.at[:-1], piece.shape[:-1], strict=True))] = scales
    assert found is not None
    return found


def _write(
    checkpoint: Checkpoint,
    how: Packed,
    modules: list[str],
    weights: list[tuple[str, str, tuple[int, ...]]],
    files: tuple[Path, Path],
) -> None:
    scales: list[tuple[str, str, tuple[int, ...]]] = []
    worth: list[Values] = []
    with RankFile(files[0], weights) as writer:
        for module, (name, dtype, (rows, _)) in zip(modules, weights, strict=True):
            arrays, parts = _arrays(checkpoint, how, module), []
            for begin in range(0, rows, _ROWS):
                try:
                    values, own = how.rows(arrays, slice(begin, min(begin + _ROWS, rows)))
                except ValueError as error:
                    raise CheckpointError(f"`{module}`: {error}", hint=_UNQUANTISED) from None
                bits = np.ascontiguousarray(values, np.float32).view(np.uint32).reshape(-1)
                out = np.empty(bits.size, f"u{ITEMSIZE[dtype]}")
                cast_bits(bits, "F32", out, dtype)
                writer.append(out.data.cast("B"))
                parts.append(own)
            worth.append(np.concatenate(parts))
            scales.append((name, "F32", worth[-1].shape))
    with RankFile(files[1], scales) as writer:
        for values in worth:
            writer.append(np.ascontiguousarray(values, np.float32).data.cast("B"))


def _modules(checkpoint: Checkpoint, how: Packed) -> list[str]:
    """In the order of the checkpoint's names. A module is quantised where it has all of its tensors."""
    suffix = f".{how.weight}"
    found = [name.removesuffix(suffix) for name in checkpoint.tensors if name.endswith(suffix)]
    return [m for m in found if f"{m}.{how.others[0]}" in checkpoint.tensors]


def _arrays(checkpoint: Checkpoint, how: Packed, module: str) -> Arrays:
    found = {}
    for suffix in (how.weight, *how.others):
        tensor = checkpoint.tensors.get(f"{module}.{suffix}")
        if tensor is None:
            continue
        if tensor.file is None:
            raise CheckpointError(
                f"only the header of `{tensor.name}` is here", hint="fetch the model with its weights"
            )
        kinds = {"I32": "<i4", "I8": "i1", "F8_E4M3": "u1"}
        kind = kinds.get(tensor.dtype, f"u{ITEMSIZE[tensor.dtype]}")
        bits = np.memmap(tensor.file, kind, "r", tensor.offset, tensor.shape or (1,))
        found[suffix] = bits if tensor.dtype in kinds else _float32(bits, tensor.dtype)
    return found


def _float32(bits: NDArray[Any], dtype: str) -> Values:
    out = np.empty(bits.size, np.uint32)
    cast_bits(np.ascontiguousarray(bits).reshape(-1), dtype, out, "F32")
    return out.view(np.float32).reshape(bits.shape)


def _dtype(hf: Mapping[str, Any]) -> str:
    name = str(hf.get("dtype") or hf.get("torch_dtype") or "float16").removeprefix("torch.")
    return _DTYPES.get(name, "F16")


def _whole(path: Path) -> bool:
    try:
        return path.exists() and read_header(path) is not None
    except HeaderError:
        path.unlink()
        return False


def _nibbles(words: NDArray[Any], axis: int) -> NDArray[np.int32]:
    """Eight integers of four bits for every one of `words` [a, b], the lowest bits first, along `axis`."""
    each = np.stack([np.asarray(words, np.int32) >> shift & 15 for shift in range(0, 32, 4)], axis + 1)
    return each.reshape([size * (8 if i == axis else 1) for i, size in enumerate(words.shape)])


def _grouped(q: NDArray[np.int32], z: NDArray[np.int32], s: Values) -> tuple[Values, Values]:
    """q [in, n], z and s [groups, n] -> W [n, in], s [n, groups]."""
    size = len(q) // len(s)
    values = (q.reshape(len(s), size, -1) - z[:, None]) * s[:, None]
    return np.ascontiguousarray(values.reshape(len(q), -1).T, np.float32), np.ascontiguousarray(s.T)


def _of_gptq(arrays: Arrays, rows: slice) -> tuple[Values, Values]:
    words = slice(rows.start // 8, -(-rows.stop // 8))
    zeros = (_nibbles(arrays["qzeros"][:, words], 1)[:, : rows.stop - rows.start] + 1) & 15
    return _grouped(_nibbles(arrays["qweight"][:, rows], 0), zeros, arrays["scales"][:, rows])


def _of_symmetric_gptq(arrays: Arrays, rows: slice) -> tuple[Values, Values]:
    zeros = _nibbles(arrays["qzeros"], 1)
    if (zeros != 7).any():
        raise ValueError("config.json says `sym`, and there are zero points other than 8")
    return _of_gptq(arrays, rows)


def _of_awq(arrays: Arrays, rows: slice) -> tuple[Values, Values]:
    words = slice(rows.start // 8, -(-rows.stop // 8))

    def columns(name: str) -> NDArray[np.int32]:
        found = _nibbles(arrays[name][:, words], 1)
        runs = found.reshape(len(found), -1, 8)
        ordered = np.empty_like(runs)
        ordered[..., list(_AWQ_ORDER)] = runs
        return ordered.reshape(found.shape)[:, : rows.stop - rows.start]

    return _grouped(columns("qweight"), columns("qzeros"), arrays["scales"][:, rows])


def _of_rows(arrays: Arrays, rows: slice) -> tuple[Values, Values]:
    weight, scale = np.asarray(arrays["weight"][rows]), arrays["weight_scale"].reshape(-1, 1)
    worth = scale[rows] if len(scale) > 1 else np.broadcast_to(scale, (len(weight), 1))
    values = fp8.decode(weight) if weight.dtype == np.uint8 else weight.astype(np.float32)
    return values * worth, np.ascontiguousarray(worth)


def _gptq(found: Mapping[str, Any]) -> Packed:
    form = str(found.get("checkpoint_format") or "gptq")
    if found.get("bits") != 4 or form != "gptq":
        raise RefusedError(
            f"GPTQ is read with 4 bits in format gptq; found {found.get('bits')} in {form}", hint=_UNQUANTISED
        )
    if found.get("desc_act"):
        raise RefusedError(
            "GPTQ with act-order (`desc_act`) scatters the groups of a row: no target here has kernels for it",
            hint=f"take a revision without act-order, or {_UNQUANTISED}",
        )
    symmetric = bool(found.get("sym"))
    scheme = "int4-weight" if symmetric and found.get("group_size") == 128 else ""
    rows = _of_symmetric_gptq if symmetric else _of_gptq
    return Packed("GPTQ", scheme, "qweight", ("qzeros", "scales", "g_idx"), lambda s: (s[1], s[0] * 8), rows)


def _awq(found: Mapping[str, Any]) -> Packed:
    version = str(found.get("version") or "gemm").lower()
    bits = found.get("bits") or found.get("w_bit")
    if bits != 4 or version != "gemm":
        raise RefusedError(f"AutoAWQ is read with 4 bits in version gemm; found {bits} in {version}", hint=_UNQUANTISED)
    # Its zero points are no part of any scheme here.
    return Packed("AutoAWQ", "", "qweight", ("qzeros", "scales"), lambda s: (s[1] * 8, s[0]), _of_awq)


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
            "compressed-tensors are read with one group of 8-bit weights, symmetric, int-quantized with a scale "
            f"a channel or float-quantized; found {form}, {len(groups)} group(s), {weights or 'no weights'}",
            hint=_UNQUANTISED,
        )
    dynamic = inputs.get("dynamic") is True and inputs.get("strategy") == "token"
    scheme = "" if kind == "float" else "int8-weight" if not inputs else "smoothquant" if dynamic else ""
    others = ("weight_scale", "weight_zero_point", "input_scale", "input_zero_point")
    return Packed(f"compressed-tensors {form}", scheme, "weight", others, lambda s: s, _of_rows)
