"""What int8 costs trained tiny models whose activations have outliers: the gate's verdict for every way of rounding.

    python -m benchmarks.perplexity --work DIR [--cases llama,gpt2] [--steps 300]

The models: benchmarks/planted.py. Files of tp 2 in bfloat16.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from benchmarks.planted import Planted, said, table
from compiler.decoder.kernels import Kernels
from compiler.decoder.quantised import experts, finish, per_token, weight_only
from compiler.quant.scaling import Scaling
from compiler.quant.schemes import SCHEMES, Scheme
from compiler.stages import convert, gate
from compiler.stages.sides import of_files
from compiler.targets.inductor.layout import rank_plans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from compiler.decoder.quantised import QuantisedLinear

SMOOTH = SCHEMES["smoothquant"]


def per_sample(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """`per_token` with one scale for all tokens of a sample; one that is fixed before can hardly do better."""
    steps = 127.0 / x.float().abs().max().clamp_min(1e-8)
    integers = (x.float().reshape(-1, x.shape[-1]) * steps).round().to(torch.int8)
    y = torch._int_mm(integers, weight.t()).float() / steps
    return finish(y, scale, bias, x.dtype).reshape(*x.shape[:-1], weight.shape[0])


PER_TENSOR = replace(SMOOTH, weight_scales="tensor")
WAYS: tuple[tuple[str, Scheme, QuantisedLinear], ...] = (
    ("int8-weight", SCHEMES["int8-weight"], weight_only),
    ("W8A8, per channel, per token", replace(SMOOTH, search=""), per_token),
    ("  smoothed, alpha 0.5", SMOOTH, per_token),
    ("  smoothed, weights per tensor", PER_TENSOR, per_token),
    ("  smoothed, activations per sample", SMOOTH, per_sample),
    ("  smoothed, both", PER_TENSOR, per_sample),
    ("W8A8, both, not smoothed", replace(PER_TENSOR, search=""), per_sample),
)


def cells(model: Planted) -> Iterator[str]:
    for way, scheme, linear in WAYS:
        merged, sources = model.scaled(Scaling(scheme))
        plans = rank_plans(model.config, 2, merged, "BF16")
        convert.convert(plans, sources, model.out)
        kernels = Kernels(quantised=linear, quantised_experts=experts(linear))
        files = of_files(model.config, [model.out / plan.file for plan in plans], kernels)
        verdict = gate.measure(model.stored, files, model.held_out)
        worst = min(verdict.parts, key=lambda part: part.cosine)
        yield (
            f"{way} | {verdict.perplexity_float:.3f} | {verdict.perplexity:.3f} | {verdict.increase:+.2%} "
            f"| {verdict.kl:.4f} | {worst.cosine:.5f} {worst.name} | {said(verdict, scheme.tolerance)}"
        )


if __name__ == "__main__":
    heads = "rounding | float | int8 | increase | KL | least cosine | gate"
    table(__doc__, "llama,qwen3,gemma,gpt2,gptj,starcoder2", heads, cells)
