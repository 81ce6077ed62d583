"""What the references share, each as its formula. Heads: q [B, S, heads, D], k and v [B, S, kv_heads, D]."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def linear(x: Tensor, tensors: Mapping[str, Tensor], stem: str) -> Tensor:
    """x W^T + b, with W [out, in]; b where the checkpoint has one."""
    y = x @ tensors[f"{stem}.weight"].T
    return y + tensors[f"{stem}.bias"] if f"{stem}.bias" in tensors else y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def gelu_tanh(x: Tensor) -> Tensor:
    return x / 2 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def turn_halves(x: Tensor, base: float) -> Tensor:
    """Element i and element i + D / 2 of a head are one number of the complex plane, turned by position."""
    a, b = x.chunk(2, -1)
    turned = _turned(torch.complex(a.contiguous(), b.contiguous()), x.shape[-1], base)
    return torch.cat((turned.real, turned.imag), -1)


def turn_neighbours(x: Tensor, base: float, stretch: float = 1.0) -> Tensor:
    """Elements 2 i and 2 i + 1 are one number; positions are divided by `stretch`."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(_turned(pairs, x.shape[-1], base, stretch)).flatten(-2)


def _turned(numbers: Tensor, dim: int, base: float, stretch: float = 1.0) -> Tensor:
    position = torch.arange(numbers.shape[1]) / stretch
    angle = torch.outer(position, torch.tensor([base ** (-2 * i / dim) for i in range(dim // 2)]))
    return numbers * torch.polar(torch.ones_like(angle), angle)[:, None, :]


def attention(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None = None) -> Tensor:
    """Causal softmax attention -> [B, S, heads x D]. With slopes [heads], alibi by the position of the key."""
    group = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    length = q.shape[1]
    if slopes is not None:
        scores = scores + slopes[:, None, None] * torch.arange(length)
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
