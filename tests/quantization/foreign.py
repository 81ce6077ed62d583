"""Checkpoints in the quantized formats of other projects, written here: GPTQ, AutoAWQ and compressed-tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.tiny import write_checkpoint

SIZES: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
}  # fmt: skip
GROUP = 128
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
Module = tuple[dict[str, Tensor], Tensor]
"""The tensors of a module by suffix, and the weight [out, in] that they stand for, float32."""


def _words(nibbles: Tensor, order: list[int]) -> Tensor:
    """[a, 8 b] -> int32 [a, b]: integer `order[k]` of eight in bits 4 k."""
    runs = nibbles.reshape(len(nibbles), -1, 8).to(torch.int64)
    words = sum((runs[..., j] << (4 * k) for k, j in enumerate(order)), torch.zeros_like(runs[..., 0]))
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def _grouped(weight: Tensor, zero: int | None, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """q [out, in], z [out, groups], s [out, groups]; `zero` None: of every group its own."""
    groups = weight.float().reshape(len(weight), -1, GROUP)
    scales = (groups.abs().amax(-1) / 7).half()
    zeros = torch.randint(6, 11, scales.shape, generator=rng) if zero is None else torch.full(scales.shape, zero)
    q = (groups / scales.float()[..., None]).round() + zeros[..., None]
    return q.clamp(0, 15).to(torch.int64).reshape(weight.shape), zeros, scales


def _dequantized(q: Tensor, z: Tensor, s: Tensor) -> Tensor:
    groups = q.reshape(len(q), -1, GROUP) - z[..., None]
    return (groups * s.float()[..., None]).reshape(q.shape)


def gptq(weight: Tensor, rng: torch.Generator) -> Module:
    q, z, s = _grouped(weight, 8, rng)
    plain = list(range(8))
    return {
        "qweight": _words(q, plain).T.contiguous(),
        "qzeros": _words(z.T.contiguous() - 1, plain),
        "scales": s.T.contiguous(),
        "g_idx": (torch.arange(q.shape[1]) // GROUP).to(torch.int32),
    }, _dequantized(q, z, s)


def awq(weight: Tensor, rng: torch.Generator) -> Module:
    q, z, s = _grouped(weight, None, rng)
    return {
        "qweight": _words(q.T.contiguous(), AWQ_ORDER),
        "qzeros": _words(z.T.contiguous(), AWQ_ORDER),
        "scales": s.T.contiguous(),
    }, _dequantized(q, z, s)


def int8(weight: Tensor, rng: torch.Generator) -> Module:
    del rng
    scale = (weight.float().abs().amax(-1, keepdim=True) / 127.5).bfloat16()  # so that -128 is met
    q = (weight.float() / scale.float()).round().clamp(-128, 127).to(torch.int8)
    return {"weight": q, "weight_scale": scale}, q.float() * scale.float()


def fp8(weight: Tensor, rng: torch.Generator) -> Module:
    del rng
    scale = (weight.float().abs().amax() / 448).reshape(1)
    q = (weight.float() / scale).to(torch.float8_e4m3fn)
    return {"weight": q, "weight_scale": scale, "input_scale": torch.ones(1)}, q.float() * scale


_WEIGHTS = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False}
TOKENS = {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True}
INT8 = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ["lm_head"],
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": _WEIGHTS, "input_activations": TOKENS}},
}  # fmt: skip
_FLOATS = {**_WEIGHTS, "type": "float", "strategy": "tensor"}
FP8: dict[str, Any] = {
    **INT8, "format": "float-quantized", "config_groups": {"group_0": {"targets": ["Linear"], "weights": _FLOATS}},
}  # fmt: skip
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
WAYS: Mapping[str, tuple[dict[str, Any], Callable[[Tensor, torch.Generator], Module]]] = {
    "gptq": (GPTQ, gptq), "awq": (AWQ, awq), "int8": (INT8, int8), "fp8": (FP8, fp8),
}  # fmt: skip


def quantized(folder: Path, way: str, **said: Any) -> dict[str, Tensor]:
    """A checkpoint in a format, and the weights that it stands for by module."""
    write_checkpoint("llama", folder, dtype="float16", **SIZES)
    config, pack = WAYS[way]
    rng, tensors, expected = torch.Generator().manual_seed(1), load_file(folder / "model.safetensors"), {}
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        module = name.removesuffix(".weight")
        parts, expected[module] = pack(tensors.pop(name), rng)
        tensors |= {f"{module}.{suffix}": part.contiguous() for suffix, part in parts.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    hf = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**hf, "quantization_config": {**config, **said}}))
    return expected
