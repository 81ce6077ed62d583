"""What int8 costs trained tiny models whose activations have outliers: the gate's verdict for every way of rounding.

    python -m benchmarks.perplexity --work DIR [--cases llama,gpt2] [--steps 400]

Trains each case (those of `tests.tiny` that transformers knows; kept in `--work`), then plants outliers: a few channels
behind every norm become 32 times as large, and the columns that read them 32 times smaller, which no logit notices.
Tiny models have no outliers of their own. Calibrates on what was trained on, measures on what was not, at tp 2.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from benchmarks.tinyllama import machine
from compiler.decoder.kernels import Kernels
from compiler.decoder.quantised import experts, finish, per_token, weight_only
from compiler.errors import NumericsError
from compiler.ir.lazy import whole
from compiler.ir.roles import TensorId
from compiler.quant.groups import apply, groups, layer_factors
from compiler.quant.scaling import Scaling
from compiler.quant.schemes import SCHEMES, Scheme
from compiler.stages import calibrate, convert, gate, scale
from compiler.stages.samples import Samples
from compiler.stages.sides import of_files
from compiler.stages.stored import StoredModel
from compiler.stages.verdict import judge
from compiler.store.checkpoint import Checkpoint, SourceTensor
from compiler.store.header import read_header
from compiler.targets.inductor.layout import rank_plans
from tests.tiny_text import paragraphs
from tests.tiny_training import HELD_OUT, ROW, write_trained
from tests.weights import canonical_weights, model_config

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.decoder.quantised import QuantisedLinear
    from compiler.ir.config import ModelConfig
    from compiler.ir.lazy import Lazy

OUTLIERS, TIMES = 4, 32.0
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


def planted(folder: Path, out: Path) -> tuple[ModelConfig, dict[TensorId, Lazy], Checkpoint]:
    """The model in `folder` with outliers: its canonical tensors as a checkpoint of float32 in `out`."""
    config, tensors = model_config(folder), canonical_weights(folder)
    rng = np.random.default_rng(0)
    changed = dict(tensors)
    for layer, kind in enumerate(config.layer_kinds):
        behind_norms = [group for group in groups(config, kind) if group.divides.endswith("norm")]
        scales = {group.name: np.ones(config.hidden, np.float32) for group in behind_norms}
        for s in scales.values():
            s[rng.choice(config.hidden, OUTLIERS, replace=False)] = 1 / TIMES
        factors, _ = layer_factors(config, behind_norms, scales)
        for tensor, values in tensors.items():
            if tensor.layer == layer and tensor.role in factors:
                changed[tensor] = apply(config, tensor.role, tensor.part, values, factors[tensor.role])
    file = out / "model.safetensors"
    save_file({str(tensor): np.ascontiguousarray(values) for tensor, values in changed.items()}, file)
    header = read_header(file)
    sources = {n: SourceTensor(n, e.dtype, e.shape, file, e.offset, e.nbytes) for n, e in header.items()}
    lazies = {tensor: whole(str(tensor), values.shape, "F32") for tensor, values in changed.items()}
    return config, lazies, Checkpoint(folder, {}, sources)


def rows(tokenizer: Path, texts: list[str], count: int) -> Samples:
    from tokenizers import Tokenizer

    stream = [i for one in Tokenizer.from_file(str(tokenizer)).encode_batch(texts) for i in one.ids]
    ids = np.array(stream[: len(stream) // ROW * ROW], np.int64).reshape(-1, ROW)[:count]
    return Samples(tuple(ids), "paragraphs", "sha256:0")


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
        maxima = load_file(out / calibrate.RESULT)
        for way, scheme, linear in WAYS:
            scale.make_scales(config, tensors, checkpoint, out, scaling=Scaling(scheme), maxima=maxima)
            merged, sources = scale.beside(tensors, checkpoint, out / scale.RESULT)
            plans = rank_plans(config, 2, merged, "BF16")
            convert.convert(plans, sources, out)
            kernels = Kernels(quantised=linear, quantised_experts=experts(linear))
            stored = StoredModel(config, tensors, checkpoint)
            verdict = gate.measure(stored, of_files(config, [out / plan.file for plan in plans], kernels), held_out)
            try:
                judge(verdict, scheme.tolerance)
                said = "passes"
            except NumericsError:
                said = "refused"
            worst = min(verdict.parts, key=lambda part: part.cosine)
            print(
                f"| {case} | {way} | {verdict.perplexity_float:.3f} | {verdict.perplexity:.3f} "
                f"| {verdict.increase:+.2%} | {verdict.kl:.4f} | {worst.cosine:.5f} {worst.name} | {said} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", default="llama,qwen3,gemma,gpt2,gptj,starcoder2")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(machine())
    print("| case | rounding | float | int8 | increase | KL | least cosine | gate |\n|---|---|---|---|---|---|---|---|")
    for case in options.cases.split(","):
        run(case, options.work, options.steps)


if __name__ == "__main__":
    main()
