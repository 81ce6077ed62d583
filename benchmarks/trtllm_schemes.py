"""Loss of trained tiny models with outliers from TensorRT-LLM's schemes, computed by the judge from their rank files.

    python -m benchmarks.trtllm_schemes --work DIR [--cases llama,gpt2] [--steps 300]

The models: benchmarks/planted.py. Files of tp 1 in bfloat16; the cache is measured with unquantized weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.planted import HEADS, Planted, said, table
from benchmarks.quantized_files import quantize
from compiler.errors import RefusedError
from compiler.numerics.gate import measure as gate
from compiler.quantization.request import Quant, scheme_of
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.target import TARGET

if TYPE_CHECKING:
    from collections.abc import Iterator

WAYS = {
    "--quant int8-weight": Quant(scheme_of("int8-weight")),
    "--quant int4-weight": Quant(scheme_of("int4-weight")),
    "--quant awq": Quant(scheme_of("awq")),
    "--quant fp8": Quant(scheme_of("fp8")),
    "--quant smoothquant": Quant(scheme_of("smoothquant")),
    "--quant smoothquant --no-per-token": Quant(scheme_of("smoothquant", per_token=False)),
    "--quant smoothquant --no-per-channel": Quant(scheme_of("smoothquant", per_channel=False)),
    "--quant smoothquant, neither": Quant(scheme_of("smoothquant", per_token=False, per_channel=False)),
    "--kv-cache int8": Quant(cache="int8"),
    "--kv-cache fp8": Quant(cache="fp8"),
}


def cells(model: Planted) -> Iterator[str]:
    for way, asked in WAYS.items():
        yield f"{way} | {_measured(model, asked)}"


def _measured(model: Planted, asked: Quant) -> str:
    try:
        made = quantize(model, TARGET, asked, 1)
    except RefusedError as error:
        return f"refused: {error.message} | | | | | | | | "
    verdict = gate.measure(model.stored, made.side(), model.held_out, scheme=made.scheme)
    figures, options = verdict.evidence, made.options
    assert isinstance(options, TrtllmOptions)
    return (
        f"{options.quant_algo or options.kv_cache_quant_algo} | {figures.perplexity_float:.3f} "
        f"| {figures.perplexity:.3f} | {figures.increase:+.2%} | {figures.kl:.4f} | {said(verdict, made.tolerance)}"
    )


if __name__ == "__main__":
    heads = f"asked | runs as | float | quantized | increase | KL | {HEADS}"
    table(__doc__, "llama,gpt2", heads, cells)
