"""Calibration, scales and conversion to int8 of a 2.2 GB model, and of one four times as large.

    python -m benchmarks.calibrate --work DIR [--samples 32] [--length 256] [--large-samples 2] [--models 1x,4x]

One fresh process per model calibrates, smooths, and writes int8 rank files at tp 2, under the default ceiling of 1 GiB.
Prints the seconds of each step and the peak resident memory. The rate of calibration is compared with an eager forward
of transformers in float32, the same computation, over the same samples with all weights in memory. Random token ids;
`--work` keeps the models (11 GB) for the next run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.convert import LARGE_LAYERS
from benchmarks.tinyllama import LAYERS, ROOT, VOCAB, machine, write_checkpoint


def quantize(folder: Path, out: Path, count: int, length: int) -> dict[str, float]:
    """Measure every step: seconds, tokens, and peak resident MiB of this process."""
    import resource

    import numpy as np
    from safetensors.numpy import load_file

    import recipes
    from compiler.calibration import activations as calibrate
    from compiler.calibration import scales as scale
    from compiler.calibration.samples import Samples
    from compiler.decoder.rankfile.layout import rank_plans
    from compiler.model.account import account
    from compiler.pipeline import rank_files as convert
    from compiler.quantization.scaling import Scaling
    from compiler.quantization.schemes import SCHEMES
    from compiler.storage.checkpoints.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(folder)
    recipe = recipes.for_config(checkpoint.config)[1].resolve(checkpoint.config)
    config = recipe.model_config(checkpoint.config)
    tensors = account(recipe, config, checkpoint.tensors).tensors
    ids = np.random.default_rng(0).integers(0, VOCAB, (count, length), np.int64)
    out.mkdir(parents=True)
    clock = [time.monotonic()]
    samples = Samples(tuple(ids), "random", "sha256:0")
    calibrate.calibrate(config, tensors, checkpoint, samples, work=out / "work", out=out)
    clock.append(time.monotonic())
    maxima = load_file(out / calibrate.RESULT)
    scale.make_scales(config, tensors, checkpoint, out, scaling=Scaling(SCHEMES["smoothquant"]), maxima=maxima)
    clock.append(time.monotonic())
    merged, sources = scale.with_scales(tensors, checkpoint, out / scale.RESULT)
    convert.convert(rank_plans(config, 2, merged, "BF16", "per_token"), sources, out / "ranks")
    clock.append(time.monotonic())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps = dict(zip(("calibrate", "scales", "convert"), (b - a for a, b in pairwise(clock)), strict=True))
    return {**steps, "tokens": float(ids.size), "peak": peak}


def forward(folder: Path, count: int, length: int) -> dict[str, float]:
    """Measure an eager forward over the same number of tokens, one sample at a time, in seconds."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().model  # without the head
    ids = torch.randint(0, VOCAB, (count, length))
    with torch.no_grad():
        model(ids[:1])
        began = time.monotonic()
        for sample in ids:
            model(sample[None])
    return {"forward": time.monotonic() - began}


def apart(what: str, folder: Path, out: Path, count: int, length: int) -> dict[str, float]:
    """Run `what` in a process of its own."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.calibrate", "--child", what, "--work", str(folder), "--out", str(out)]
    command += ["--samples", str(count), "--length", str(length)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)
    shutil.rmtree(out, ignore_errors=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--large-samples", type=int, default=2)
    parser.add_argument("--models", default="1x,4x")
    parser.add_argument("--child", choices=("quantize", "forward"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "quantize":
        print(json.dumps(quantize(options.work, options.out, options.samples, options.length)))
        return
    if options.child == "forward":
        print(json.dumps(forward(options.work, options.samples, options.length)))
        return
    print(machine())
    models = (("1x", LAYERS, options.samples), ("4x", LARGE_LAYERS, options.large_samples))
    for name, layers, count in models:
        if name not in options.models.split(","):
            continue
        folder = options.work / name
        if not (folder / "config.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            write_checkpoint(folder, layers)
        found = apart("quantize", folder, options.work / "out", count, options.length)
        rate = found["tokens"] / found["calibrate"]
        print(
            f"{name}   calibrate {found['calibrate']:.1f} s ({rate:.0f} tokens/s)   scales {found['scales']:.1f} s   "
            f"convert {found['convert']:.1f} s   peak {found['peak']:.0f} MiB",
            flush=True,
        )
        if name == "1x":
            eager = found["tokens"] / apart("forward", folder, options.work / "out", count, options.length)["forward"]
            print(f"     eager forward {eager:.0f} tokens/s   ratio {rate / eager:.2f}", flush=True)


if __name__ == "__main__":
    main()
