"""What TensorRT-LLM's quantisations cost trained tiny models with outliers, as the judge reads their rank files.

    python -m benchmarks.trtllm_schemes --work DIR [--cases llama,gpt2] [--steps 300]

The models, their outliers and the texts are those of `benchmarks.perplexity`; the files are those of tp 1 in bfloat16,
and their logits those of the target's judge. The cache is measured with weights as they are.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.numpy import load_file

from benchmarks.perplexity import planted, rows
from benchmarks.tinyllama import machine
from compiler.errors import NumericsError, RefusedError
from compiler.quant.asked import Quant, scheme_of
from compiler.quant.planned import planned
from compiler.quant.schemes import CLOSE
from compiler.stages import calibrate, convert, gate, scale
from compiler.stages.sides import Judged
from compiler.stages.stored import StoredModel
from compiler.stages.verdict import judge
from compiler.targets import PLAIN, trtllm
from tests.tiny_text import paragraphs
from tests.tiny_training import HELD_OUT, write_trained

if TYPE_CHECKING:
    from compiler.ir.config import ModelConfig
    from compiler.ir.lazy import Lazy
    from compiler.ir.roles import TensorId
    from compiler.stages.samples import Samples
    from compiler.store.checkpoint import Checkpoint

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
HELD_OUT_ROWS = 32


def run(case: str, work: Path, steps: int) -> None:
    folder = work / f"{case.replace('/', '-')}-{steps}"
    if not (folder / "tokenizer.json").exists():
        write_trained(case, folder, steps)
    texts = list(paragraphs())
    trained_on = rows(folder / "tokenizer.json", [t for i, t in enumerate(texts) if i % HELD_OUT][:400], 32)
    held_out = rows(folder / "tokenizer.json", texts[::HELD_OUT], HELD_OUT_ROWS)
    with tempfile.TemporaryDirectory(dir=work) as name:
        out = Path(name)
        config, tensors, checkpoint = planted(folder, out)
        calibrate.calibrate(config, tensors, checkpoint, trained_on, work=out / "work", out=out)
        for way, quant in WAYS.items():
            print(f"| {case} | {way} | {measured(config, tensors, checkpoint, quant, held_out, out)} |", flush=True)


def measured(
    config: ModelConfig,
    tensors: dict[TensorId, Lazy],
    checkpoint: Checkpoint,
    asked: Quant,
    held_out: Samples,
    out: Path,
) -> str:
    """The rest of a row."""
    try:
        quant, options = trtllm.quantised(config, asked, PLAIN)
        trtllm.check(config, 1, options)
    except RefusedError as error:
        return f"refused: {error.message} | | | | | "
    scaling = trtllm.scaling(config, quant, options)
    merged, sources = tensors, checkpoint
    if planned(config, tensors, scaling):
        maxima = load_file(out / calibrate.RESULT)
        scale.make_scales(config, tensors, checkpoint, out, scaling=scaling, maxima=maxima)
        merged, sources = scale.beside(tensors, checkpoint, out / scale.RESULT)
    convert.convert(trtllm.rank_plans(config, 1, merged, "BF16", options), sources, out, crc=None)
    for file, data in trtllm.files(config, 1, "bfloat16", options).items():
        (out / file).write_bytes(data)
    stored = StoredModel(config, tensors, checkpoint)
    verdict = gate.measure(stored, Judged(trtllm.judge_of(out, config, 1 << 30)), held_out)
    tolerance = quant.scheme.tolerance if quant.scheme else CLOSE
    try:
        judge(verdict, tolerance)
        said = "passes"
    except NumericsError:
        said = "refused"
    return (
        f"{options.quant_algo or options.kv_cache_quant_algo} | {verdict.perplexity_float:.3f} "
        f"| {verdict.perplexity:.3f} | {verdict.increase:+.2%} | {verdict.kl:.4f} | {said}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", default="llama,gpt2")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(machine())
    print("| case | asked | runs as | float | quantised | increase | KL | gate |\n|---|---|---|---|---|---|---|---|")
    for case in options.cases.split(","):
        run(case, options.work, options.steps)


if __name__ == "__main__":
    main()
