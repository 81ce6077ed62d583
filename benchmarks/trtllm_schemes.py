"""Loss of trained tiny models with outliers from TensorRT-LLM's schemes, computed by the judge from their rank files.

    python -m benchmarks.trtllm_schemes --work DIR [--cases llama,gpt2] [--steps 300]

The models: benchmarks/planted.py. Files of tp 1 in bfloat16; the cache is measured with unquantized weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.planted import Planted, said, table
from compiler.errors import RefusedError
from compiler.numerics.gate import measure as gate
from compiler.numerics.gate.sides import Judged
from compiler.pipeline import rank_files as convert
from compiler.pipeline.support import taken
from compiler.quantization.request import Quant, scheme_of
from compiler.quantization.scale_tensors import scale_tensors
from compiler.quantization.schemes import CLOSE
from compiler.targets.trtllm.options import PLAIN, TrtllmOptions
from compiler.targets.trtllm.runtime import judge_of
from compiler.targets.trtllm.target import TARGET, CheckpointLayout

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
    config, out, layout = model.config, model.out, CheckpointLayout()
    try:
        found = taken(TARGET, config, asked, 1, PLAIN, None)
    except RefusedError as error:
        return f"refused: {error.message} | | | | | | "
    assert found.scaling is not None
    assert isinstance(found.options, TrtllmOptions)
    merged, sources = model.tensors, model.checkpoint
    if scale_tensors(config, model.tensors, found.scaling):
        merged, sources = model.scaled(found.scaling)
    convert.convert(layout.rank_plans(config, 1, merged, "BF16", found.options), sources, out, crc=None)
    for file, data in layout.files(config, 1, "bfloat16", found.options).items():
        (out / file).write_bytes(data)
    verdict = gate.measure(model.stored, Judged(judge_of(out, config, 1 << 30)), model.held_out)
    tolerance = found.quant.scheme.tolerance if found.quant.scheme else CLOSE
    return (
        f"{found.options.quant_algo or found.options.kv_cache_quant_algo} | {verdict.perplexity_float:.3f} "
        f"| {verdict.perplexity:.3f} | {verdict.increase:+.2%} | {verdict.kl:.4f} "
        f"| {said(verdict, tolerance)}"
    )


if __name__ == "__main__":
    heads = "asked | runs as | float | quantized | increase | KL | least cosine | gate"
    table(__doc__, "llama,gpt2", heads, cells)
