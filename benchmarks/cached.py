"""What a quantised cache costs trained tiny models, with a scale for every kv head or one for the whole layer.

    python -m benchmarks.cached --work DIR [--cases llama,gpt2] [--steps 300]

The models, their outliers and the texts are those of `benchmarks.perplexity`, weights stay as they are, tp 2. Prints
the gate's verdicts. One scale for the keys and values of a layer is what TensorRT-LLM has.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file

from benchmarks.perplexity import planted, rows
from benchmarks.tinyllama import machine
from compiler.decoder.attention import CACHED
from compiler.decoder.kernels import PLAIN
from compiler.errors import NumericsError
from compiler.quant.scaling import Scaling
from compiler.quant.schemes import CACHES, UNQUANTISED
from compiler.stages import calibrate, convert, gate, scale
from compiler.stages.sides import of_files
from compiler.stages.stored import StoredModel
from compiler.stages.verdict import judge
from compiler.targets.inductor.layout import rank_plans
from tests.tiny_text import paragraphs
from tests.tiny_training import HELD_OUT, write_trained

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from numpy.typing import NDArray

FORMATS: tuple[Literal["int8", "fp8"], ...] = ("int8", "fp8")


def one_a_layer(maxima: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The same, as if all heads of a layer, keys and values, had reached what the largest of them has."""
    found = dict(maxima)
    for name in [name for name in maxima if name.endswith("attn.k.cached")]:
        both = name, name.replace("attn.k", "attn.v")
        largest = max(maxima[one].max() for one in both)
        found |= {one: np.full_like(maxima[one], largest) for one in both}
    return found


def run(case: str, work: Path, steps: int) -> None:
    folder = work / f"{case.replace('/', '-')}-{steps}"
    if not (folder / "tokenizer.json").exists():
        write_trained(case, folder, steps)
    texts = list(paragraphs())
    trained_on = rows(folder / "tokenizer.json", [t for i, t in enumerate(texts) if i % HELD_OUT][:400], 32)
    held_out = rows(folder / "tokenizer.json", texts[::HELD_OUT], 32)
    with tempfile.TemporaryDirectory(dir=work) as name:
        out = Path(name)
        config, tensors, checkpoint = planted(folder, out)
        calibrate.calibrate(config, tensors, checkpoint, trained_on, work=out / "work", out=out)
        by_heads = load_file(out / calibrate.RESULT)
        for form in FORMATS:
            scaling = Scaling(UNQUANTISED, cache=form, cache_scales="head")
            for scales, maxima in (("kv head", by_heads), ("layer", one_a_layer(by_heads))):
                scale.make_scales(config, tensors, checkpoint, out, scaling=scaling, maxima=maxima)
                merged, sources = scale.beside(tensors, checkpoint, out / scale.RESULT)
                plans = rank_plans(config, 2, merged, "F32")
                convert.convert(plans, sources, out)
                stored = StoredModel(config, tensors, checkpoint)
                kernels = replace(PLAIN, cached=CACHED[form])
                verdict = gate.measure(stored, of_files(config, [out / plan.file for plan in plans], kernels), held_out)
                try:
                    judge(verdict, CACHES[form])
                    said = "passes"
                except NumericsError:
                    said = "refused"
                worst = min(verdict.parts, key=lambda part: part.cosine)
                print(
                    f"| {case} | {form} | {scales} | {verdict.perplexity_float:.3f} | {verdict.increase:+.3%} "
                    f"| {verdict.kl:.6f} | {worst.cosine:.6f} | {said} |",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", default="llama,gpt2")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(machine())
    print("| case | cache | a scale for each | float | increase | KL | least cosine | gate |")
    print("|---|---|---|---|---|---|---|---|")
    for case in options.cases.split(","):
        run(case, options.work, options.steps)


if __name__ == "__main__":
    main()
