"""Normalization over the last dimension, with the rounding points of transformers.

    rms            weight * round(x / sqrt(mean(x^2) + eps))             Llama, Mistral, Qwen
    rms_float32    round(x / sqrt(mean(x^2) + eps) * weight)             OLMo-2
    rms_plus_one   round(x / sqrt(mean(x^2) + eps) * (1 + weight))       Gemma
    layer          round((x - mean) / sqrt(var + eps) * weight + bias)   GPT-2, Falcon, StarCoder; Cohere without bias

Everything inside `round` is float32; `round` casts to the dtype of x.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.model.config import Norm


def normalize(kind: Norm, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """x [..., H], weight and bias [H] -> [..., H], all in one dtype. Only `layer` reads the bias."""
    match kind:
        case "rms":
            return weight * _unit(x, eps).to(x.dtype)
        case "rms_float32":
            return (_unit(x, eps) * weight.float()).to(x.dtype)
        case "rms_plus_one":
            return (_unit(x, eps) * (1.0 + weight.float())).to(x.dtype)
        case "layer":
            return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def unit(x: Tensor, eps: float) -> Tensor:
    """x [..., D] divided by the root of its mean square; rounded to its dtype."""
    return _unit(x, eps).to(x.dtype)


def normalize_heads(kind: Norm, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Norm of each head by itself: x [..., heads, D] -> the same shape; weight [D], or [heads, D] with one per head."""
    if weight.ndim == 1:
        return normalize(kind, x, weight, None, eps)
    unweighted = torch.ones_like(weight[0]) if kind != "rms_plus_one" else torch.zeros_like(weight[0])
    unit = normalize(kind, x.float(), unweighted.float(), None, eps)
    return (unit * _factor(kind, weight)).to(x.dtype)


def normalize_by(kind: Norm, x: Tensor, weight: Tensor, mean_square: Tensor, eps: float) -> Tensor:
    """RMS norm with a given mean square: x [B, S, heads, D], weight [heads, D], mean_square float32 [B, S]."""
    unit = x.float() * torch.rsqrt(mean_square + eps)[..., None, None]
    return (unit * _factor(kind, weight)).to(x.dtype)


def _factor(kind: Norm, weight: Tensor) -> Tensor:
    return 1.0 + weight.float() if kind == "rms_plus_one" else weight.float()


def _unit(x: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
