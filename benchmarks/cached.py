"""Loss of trained tiny models from a quantized cache, with a scale for every kv head or one for the whole layer.

    python -m benchmarks.cached --work DIR [--cases llama,gpt2] [--steps 300]

The models: benchmarks/planted.py. Files of tp 2 in float32, weights not rounded. TensorRT-LLM has one scale for the
keys and values of a layer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.planted import HEADS, Planted, said, table
from compiler.quantization.request import Quant
from compiler.quantization.schemes import CACHES
from compiler.targets.inductor import schemes
from compiler.targets.inductor.options import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FORMATS: tuple[str, ...] = ("int8", "fp8")


def one_a_layer(maxima: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Maxima with those of a layer's heads, keys and values, replaced by the largest of them."""
    found = dict(maxima)
    for name in [name for name in maxima if name.endswith("attn.k.cached")]:
        both = name, name.replace("attn.k", "attn.v")
        largest = max(maxima[one].max() for one in both)
        found |= {one: np.full_like(maxima[one], largest) for one in both}
    return found


def cells(model: Planted) -> Iterator[str]:
    for form in FORMATS:
        quant, options = schemes.quantized(model.config, Quant(cache=form), PLAIN)
        for scales, of in (("kv head", model), ("layer", replace(model, maxima=one_a_layer(model.maxima)))):
            verdict = of.on_inductor(schemes.scaling(model.config, quant, options), options, "float32")
            found = verdict.evidence
            yield (
                f"{form} | {scales} | {found.perplexity_float:.3f} | {found.increase:+.3%} | {found.kl:.6f} "
                f"| {said(verdict, CACHES[form])}"
            )


if __name__ == "__main__":
    table(__doc__, "llama,gpt2", f"cache | a scale for each | float | increase | KL | {HEADS}", cells)
