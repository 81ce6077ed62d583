"""Normalisation over the last dimension, with the rounding points of transformers.

    rms            weight * round(x / sqrt(mean(x^2) + eps))             Llama, Mistral, Qwen
    rms_plus_one   round(x / sqrt(mean(x^2) + eps) * (1 + weight))       Gemma
    layer          round((x - mean) / sqrt(var + eps) * weight + bias)   GPT-2, Falcon, StarCoder

Everything inside `round` is float32; `round` goes back to the dtype of x.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.model.config import Norm


def normalize(kind: Norm, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """x [..., H], weight and bias [H] -> [..., H], all of one dtype. Only `layer` reads the bias."""
    match kind:
        case "rms":
            return weight * _unit(x, eps).to(x.dtype)
        case "rms_plus_one":
            return (_unit(x, eps) * (1.0 + weight.float())).to(x.dtype)
        case "layer":
            return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def _unit(x: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
