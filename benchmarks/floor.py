"""Rounding of an artifact's dtype as `verify` sees it: quantized rank files in bfloat16 against the same in float32.

    python -m benchmarks.floor --model FOLDER --work DIR [--schemes int8-weight,fp8] [--positions 2048]

Rank files of target inductor at tp 1 run through the definitions of their layers, over the rows of a proof, once in
float32 and once in bfloat16: the figures are the least that a compiled artifact can be held to. "limit" is the constant
of its dtype (numerics/compare.py), "held to" what `verify` allows.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import recipes
from benchmarks.planted import Planted
from benchmarks.quantized_files import DTYPE, quantize
from benchmarks.tinyllama import machine
from compiler import targets
from compiler.calibration.samples import random_samples
from compiler.model.account import account
from compiler.numerics.compare import thresholds, widened
from compiler.numerics.gate.sides import log_probabilities, of_files
from compiler.numerics.passages import Passage, token_rows
from compiler.numerics.proof import proof_of
from compiler.numerics.record import floor_of
from compiler.quantization.request import Quant, scheme_of
from compiler.storage.checkpoints.checkpoint import open_checkpoint
from compiler.targets.inductor.options import InductorOptions
from compiler.targets.inductor.schemes import kernels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--schemes", default="int8-weight,fp8", help="those that need no calibration")
    parser.add_argument("--positions", type=int, default=2048)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint(options.model)
    recipe = recipes.for_config(checkpoint.config)[1].resolve(checkpoint.config)
    config = recipe.model_config(checkpoint.config)
    tensors = account(recipe, config, checkpoint.tensors).tensors
    rows, _ = token_rows(options.model, config.vocab, proof_of(config, options.positions))
    none, constant = random_samples(config.vocab, 1, 8), thresholds(DTYPE)
    print(machine())
    print("scheme | kl_median, largest of rows | limit | held to | kl | top1 | cosine")
    for name in options.schemes.split(","):
        with tempfile.TemporaryDirectory(dir=options.work) as out:
            model = Planted(config, tensors, checkpoint, {}, none, none, Path(out))
            made = quantize(model, targets.load("inductor"), Quant(scheme_of(name)), 1)
            assert isinstance(made.options, InductorOptions)
            sides = [of_files(config, made.files, kernels(made.options), wide=wide) for wide in (True, False)]
            exact, rounded = (log_probabilities(side, config, rows) for side in sides)
        floor = floor_of(Passage.of(rows, exact), rounded)
        held = widened(constant, floor)
        print(
            f"{name} | {floor.kl_median:g} | {constant.kl_median:g} | {held.kl_median:g} | {floor.kl:g} | "
            f"{floor.top1_agreement:g} | {floor.cosine:g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
