"""Loss of trained tiny models with outliers from 8-bit quantization: the gate's verdict for every scheme.

    python -m benchmarks.perplexity --work DIR [--cases llama,gpt2] [--steps 300]

The models: benchmarks/planted.py. Files of tp 2 in bfloat16.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.planted import HEADS, Planted, said, table
from compiler.quantization.request import Quant
from compiler.quantization.scaling import Scaling
from compiler.quantization.schemes import SCHEMES, Scheme
from compiler.targets.inductor import schemes
from compiler.targets.inductor.options import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

SMOOTH = SCHEMES["smoothquant"]


PER_TENSOR = replace(SMOOTH, weight_scales="tensor")
BOTH = replace(PER_TENSOR, activation_scales="tensor")
WAYS: tuple[tuple[str, Scheme], ...] = (
    ("int8-weight", SCHEMES["int8-weight"]),
    ("W8A8, per channel, per token", replace(SMOOTH, search="")),
    ("  smoothed, alpha 0.5", SMOOTH),
    ("  smoothed, weights per tensor", PER_TENSOR),
    ("  smoothed, activations per tensor", replace(SMOOTH, activation_scales="tensor")),
    ("  smoothed, both", BOTH),
    ("W8A8, both, not smoothed", replace(BOTH, search="")),
    ("fp8, per channel, per token", SCHEMES["fp8"]),
    ("  both per tensor", replace(SCHEMES["fp8"], weight_scales="tensor", activation_scales="tensor")),
)


def cells(model: Planted) -> Iterator[str]:
    for way, scheme in WAYS:
        _, options = schemes.quantized(model.config, Quant(scheme), PLAIN)
        verdict = model.on_inductor(Scaling(scheme), options, "bfloat16")
        found = verdict.evidence
        yield (
            f"{way} | {found.perplexity_float:.3f} | {found.perplexity:.3f} | {found.increase:+.2%} "
            f"| {found.kl:.4f} | {said(verdict, scheme.tolerance)}"
        )


if __name__ == "__main__":
    heads = f"rounding | float | 8 bits | increase | KL | {HEADS}"
    table(__doc__, "llama,qwen3,gemma,gpt2,gptj,starcoder2", heads, cells)
