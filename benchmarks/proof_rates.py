"""Rates of calibration, feedback, gate and judge beside an eager forward, and what they mean for large models.

    python -m benchmarks.proof_rates --model FOLDER --work DIR [--layers 2] [--samples 4] [--length 256]
    python -m benchmarks.proof_rates --shape llama2-70b --work DIR --layers 1 [--device cuda]

The first `--layers` layers of a checkpoint, or of a Llama of a published shape with random weights, run in one process,
one thread count: an eager forward of transformers in float32 (a sample at a time, as many tokens), then each stage over
the same tokens, int8 weights at tp 2; feedback where its matrices fit into 4 GiB. A rate is in billions of operations a
second, of one forward of these layers, and of the head where the stage computes logits: the gate computes every token
twice, of the source and of the files, and its rate counts it once. It is compared with the eager forward that computes
the same. The arithmetic below multiplies operations of published models by the seconds for one that were measured here,
for `--proof standard`, and divides by 8 for 16 cores. With `--device cuda` all but the judge run on a GPU, beside an
eager forward there; without the arithmetic.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import recipes
from benchmarks.planted import Planted
from benchmarks.quantized_files import quantize
from benchmarks.tinyllama import ROOT, machine, write_llama
from compiler import targets
from compiler.calibration import activations, feedback
from compiler.calibration.samples import Samples
from compiler.errors import MemoryCeilingError
from compiler.model.account import account
from compiler.numerics.foreign import transformers_config, transformers_model
from compiler.numerics.gate.measure import Extent, measure
from compiler.numerics.gate.sides import log_probabilities
from compiler.pipeline.estimate import head_operations, layer_operations
from compiler.quantization.proof_levels import CPU, CUDA, PROOF_DEVICES, PROOFS
from compiler.quantization.request import Quant, scheme_of
from compiler.storage.checkpoints.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from compiler.model.config import ModelConfig
    from compiler.storage.checkpoints.checkpoint import Checkpoint

CORES = 16
MODELS = ("llama2-70b", "mixtral-8x7b")
LAYERS, WHOLE = "eager, layers", "eager, with head"
WITHOUT_HEAD = ("calibrate", "feedback", LAYERS)
"""Stages that compute no logits."""
PUBLISHED = ROOT / "recipes" / "published"
CALIBRATED = 64 * 512
"""Tokens of a calibration in the arithmetic."""


@dataclass(frozen=True)
class Measured:
    """Model of the first layers. `samples`: random ids."""

    planted: Planted
    eager: Checkpoint
    samples: Samples

    @property
    def config(self) -> ModelConfig:
        return self.planted.config


def opened(folder: Path, out: Path, layers: int, samples: Samples) -> Measured:
    """The first layers of a checkpoint, as a model of its own."""
    found = open_checkpoint(folder)
    later = tuple(f".layers.{layer}." for layer in range(layers, int(found.config["num_hidden_layers"])))
    kept = {name: tensor for name, tensor in found.tensors.items() if not any(one in f".{name}" for one in later)}
    short = replace(found, tensors=kept, config={**found.config, "num_hidden_layers": layers})
    recipe = recipes.for_config(short.config)[1].resolve(short.config)
    config = recipe.model_config(short.config)
    tensors = account(recipe, config, short.tensors).tensors
    return Measured(Planted(config, tensors, short, {}, samples, samples, out), short, samples)


def shaped(name: str, work: Path, layers: int) -> Path:
    """Checkpoint of `layers` layers with the widths of a published Llama, made where it is missing."""
    folder = work / f"{name}-{layers}"
    if not (folder / "config.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        hf = json.loads((PUBLISHED / f"{name}.json").read_bytes())
        write_llama(folder, {**hf, "num_hidden_layers": layers})
    return folder


def seconds(run: Callable[[], object]) -> float:
    """Duration of `run`, after one that is not counted."""
    run()
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measured(model: Measured, device: str) -> dict[str, float]:
    """Seconds of an eager forward and of the stages on a device."""
    of, samples, out = model.planted, model.samples, model.planted.out
    eager = transformers_model(transformers_config(model.eager.config), model.eager)
    torch.nn.Module.to(eager, device)

    def forward(module: torch.nn.Module) -> None:
        with torch.no_grad():
            for ids in samples.ids:
                module(torch.from_numpy(ids)[None].to(device), use_cache=False)
        if device == CUDA:
            torch.cuda.synchronize()

    found = {LAYERS: seconds(lambda: forward(eager.model)), WHOLE: seconds(lambda: forward(eager))}
    source = (of.config, of.tensors, of.checkpoint, samples)
    how: dict[str, Any] = {"work": out / "work", "out": out, "max_memory": 4 << 30, "device": device}
    found["calibrate"] = seconds(lambda: activations.calibrate(*source, **how))
    scheme = scheme_of("gptq")
    assert scheme is not None
    with suppress(MemoryCeilingError):
        found["feedback"] = seconds(lambda: feedback.compensate(*source, scheme, **how))
    found |= gated(of, samples, "inductor", "gate", device)
    found |= gated(of, samples, "trtllm", "gate by the judge", device)
    return found


def gated(of: Planted, samples: Samples, target: str, name: str, device: str) -> dict[str, float]:
    """Seconds of the gate on the files of `target`, and of the files alone."""
    made = quantize(of, targets.load(target), Quant(scheme_of("int8-weight")), 2)
    whole = Extent(part_tokens=0, layers=(), device=device)
    every, scheme = Extent(part_tokens=samples.tokens, device=device), replace(made.scheme, device=device)
    return {
        name: seconds(lambda: measure(of.stored, made.side(device), samples, extent=whole)),
        f"{name}, all parts": seconds(
            lambda: measure(of.stored, made.side(device), samples, scheme=scheme, extent=every)
        ),
        f"files of {target} alone": seconds(lambda: log_probabilities(made.side(device), of.config, list(samples.ids))),
    }


def operations(config: ModelConfig, length: int, stage: str) -> float:
    """Operations of one forward of a token, as far as the stage computes it."""
    return layer_operations(config, length) + (0 if stage in WITHOUT_HEAD else head_operations(config))


def arithmetic(found: dict[str, float], config: ModelConfig, tokens: int, length: int) -> list[str]:
    """Minutes of the stages of large models on CORES cores, by operations, in proportion to those measured."""
    lines, level = [], PROOFS["standard"]
    for name in MODELS:
        hf = json.loads((PUBLISHED / f"{name}.json").read_bytes())
        large = recipes.for_config(hf)[1].resolve(hf).model_config(hf)
        for stage, most in (("calibrate", CALIBRATED), ("gate", level.tokens), ("gate by the judge", level.tokens)):
            each = found[stage] / (tokens * operations(config, length, stage))
            at = each * most * operations(large, length, stage) * torch.get_num_threads() / CORES
            lines.append(f"{name} | {stage} | {most:,} | {at / 60:.1f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path)
    source.add_argument("--shape", help="a Llama among recipes/published")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--device", choices=PROOF_DEVICES, default=CPU)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = options.model or shaped(options.shape, options.work, options.layers)
    ids = np.random.default_rng(0).integers(0, 1000, (options.samples, options.length), np.int64)
    model = opened(folder, options.work, options.layers, Samples(tuple(ids), "random", "sha256:0"))
    found, tokens = measured(model, options.device), ids.size
    print(f"{machine()}, {torch.get_num_threads()} threads, {options.device}, {tokens} tokens, {options.layers} layers")
    print("stage | seconds | GOP/s | of eager")
    for stage, took in found.items():
        rate = tokens * operations(model.config, options.length, stage) / took / 1e9
        like = found[LAYERS if stage in WITHOUT_HEAD else WHOLE]
        print(f"{stage} | {took:.2f} | {rate:.0f} | {like / took:.2f}")
    if options.device == CPU:
        print(f"model | stage | tokens | minutes on {CORES} cores")
        print("\n".join(arithmetic(found, model.config, tokens, options.length)))


if __name__ == "__main__":
    main()
