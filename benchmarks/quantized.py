"""Decode and prefill steps of one model with weights in bfloat16, int8, int4 and float8, on one thread and on all.

    python -m benchmarks.quantized --work DIR [--rounds 7] [--rows 1,4,16] [--threads 1,2]

A Llama of the TinyLlama shape with random weights; its segments are compiled as by `lmi-compile build` and kept in DIR.
`plain` is the bfloat16 model with torch's matrix products: its decode steps run in the packages for prefill. For each
number of rows all forms in turn run a decode step behind 128 positions, then a prefill of 128 tokens; medians of the
rounds in milliseconds, and the speed relative to `plain` and to `bfloat16`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.tinyllama import FFN, HEADS, HIDDEN, KV_HEADS, LAYERS, ROOT, VOCAB, machine

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.decoder.segments import SegmentSpec
    from compiler.model.config import ModelConfig
    from compiler.runtime.engine import Program, Share

FORMS: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("float", {"decode1": "prefill", "decode": "prefill"}),
    "bfloat16": ("float", {}),
    "int8 weights": ("weight_only", {}),
    "int8 W8A8": ("per_token", {}),
    "int8 W8A8, fixed": ("per_tensor", {}),
    "int4 weights": ("grouped", {}),
    "fp8": ("fp8_per_token", {}),
    "fp8, fixed": ("fp8_per_tensor", {}),
}
"""Form of a model: the products of its linear layers, and the packages' phase that runs in place of a phase."""
PROMPT, POSITIONS, MOST_ROWS = 128, 256, 16


def model_config() -> ModelConfig:
    from compiler.model.config import LayerKind, ModelConfig

    return ModelConfig(
        architecture="", layers=LAYERS, hidden=HIDDEN, heads=HEADS, kv_heads=KV_HEADS, head_dim=HIDDEN // HEADS,
        ffn=FFN, vocab=VOCAB, max_positions=2048, norm="rms", norm_eps=1e-5, activation="silu", position="rope",
        rotary_dim=HIDDEN // HEADS, layer_kinds=(LayerKind("gated"),) * LAYERS, dtype="bfloat16",
    )  # fmt: skip


def compiled(folder: Path, config: ModelConfig) -> None:
    """Compile all packages, in a folder for each kind of products."""
    from compiler.decoder.segments import specs
    from compiler.model.limits import Limits
    from compiler.targets.inductor.build import compile_segments
    from compiler.targets.inductor.device import MARCH

    for products in dict.fromkeys(products for products, _ in FORMS.values()):
        wanted = [
            spec
            for spec in specs(config, 1, "bfloat16", Limits(POSITIONS, MOST_ROWS), products)
            if spec.products == products and not (folder / products / f"{spec.name}.pt2").exists()
        ]
        compile_segments(wanted, folder / products, device="cpu", march=MARCH)


def weights(config: ModelConfig, products: str, table: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Random tensors of a rank file, except those in `table`."""
    import torch

    from compiler.decoder.rankfile.quantized import scale_of, stored_weight
    from compiler.decoder.segments import specs, weight_shapes
    from compiler.model.limits import Limits

    def made(name: str, shape: tuple[int, ...], quantized: bool) -> Tensor:
        if name.endswith(".input_scale"):
            return torch.full(shape, 0.03)
        if name.endswith(".scale"):
            return torch.full(shape, 0.02 / (130 if products.startswith("fp8") else 50))
        if quantized and products.startswith("fp8"):
            return torch.empty(shape).normal_(0, 130).clamp(-448, 448).to(torch.float8_e4m3fn)
        if quantized:
            dtype = getattr(torch, stored_weight(products).torch_dtype)
            return torch.randint(0, 256, shape, dtype=torch.uint8).view(dtype)
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02) + (1.0 if "norm" in name else 0.0)

    found = dict(table)
    for spec in specs(config, 1, "bfloat16", Limits(POSITIONS, 1), products):
        shapes = weight_shapes(spec)
        for name, shape in shapes.items():
            if name in found or f"layers.0.{name}" in found:
                continue
            first = made(name, shape, name.endswith(".weight") and scale_of(name) in shapes)
            if spec.kind is None:
                found[name] = first
            else:  # layers have the same numbers, each in memory of its own
                found |= {f"layers.{layer}.{name}": first.clone() for layer in range(LAYERS)}
    return found


def share(config: ModelConfig, form: str, folder: Path, tensors: Mapping[str, Tensor]) -> Share:
    """Model in one form."""
    from functools import cache

    import torch

    from compiler.decoder.segments import PHASES, phase_for, segment_names, specs
    from compiler.model.limits import Limits
    from compiler.runtime.engine import Share
    from compiler.runtime.load import bind
    from compiler.runtime.package import Package

    products, instead = FORMS[form]
    by_name = {spec.name: spec for spec in specs(config, 1, "bfloat16", Limits(POSITIONS, MOST_ROWS), products)}
    layers = [segment_names(config, kind) for kind in config.layer_kinds]

    @cache
    def package(spec: SegmentSpec) -> Package:
        return Package(folder / spec.products / f"{spec.name}.pt2")

    def program(phase: str) -> Program:
        return bind(by_name, phase, layers, tensors, lambda spec, inputs: package(spec).run(inputs)[0])

    programs = {phase.name: program(instead.get(phase.name, phase.name)) for phase in PHASES}
    constants = {"first": torch.ones((), dtype=torch.bfloat16), "vocab_offset": torch.tensor(0)}
    return Share(
        config, lambda batch, length: programs[phase_for(batch, length)], constants,
        caches=dict.fromkeys(("cache_k", "cache_v"), (KV_HEADS, HIDDEN // HEADS)),
        dtype=torch.bfloat16, cached=torch.bfloat16, device="cpu",
    )  # fmt: skip


def milliseconds(share: Share, rows: int, length: int) -> float:
    import numpy as np

    from compiler.runtime.commands import StepCommand

    first = 0 if length > 1 else PROMPT
    step = StepCommand(
        token_ids=np.full((rows, length), 7), positions=np.arange(first, first + length)[None].repeat(rows, 0),
        used=first + length, last=np.full((rows, 1), length - 1),
    )  # fmt: skip
    begun = time.perf_counter()
    share.step(step)
    return 1e3 * (time.perf_counter() - begun)


def measure(folder: Path, rows: list[int], threads: int, rounds: int) -> None:
    """Print the rows for one number of threads."""
    import torch

    from compiler.decoder.rankfile.quantized import stored_weight

    torch.set_num_threads(threads)
    config = model_config()
    whole: dict[str, Tensor] = {}
    tensors: dict[str, dict[str, Tensor]] = {}
    shares: dict[str, Share] = {}
    for form, (products, _) in FORMS.items():
        if products not in tensors:
            # Integers of the same format are the same memory.
            alike = (
                p
                for p in tensors
                if "float" not in (p, products) and stored_weight(p).format == stored_weight(products).format
            )
            tensors[products] = weights(config, products, tensors.get(next(alike, ""), whole))
            whole = whole or {n: t for n, t in tensors[products].items() if not n.startswith("layers.")}
        shares[form] = share(config, form, folder, tensors[products])
        shares[form].allocate(max(rows), POSITIONS)
    for count, length in [*((count, 1) for count in rows), (1, PROMPT)]:
        found: dict[str, list[float]] = {form: [] for form in FORMS}
        for _ in range(rounds + 1):
            for form in FORMS:
                found[form].append(milliseconds(shares[form], count, length))
        medians = {form: statistics.median(times[1:]) for form, times in found.items()}
        what = f"decode, {count} rows" if length == 1 else f"prefill, {length} tokens"
        for form, median in medians.items():
            ratios = f"{medians['plain'] / median:.2f} | {medians['bfloat16'] / median:.2f}"
            print(f"| {threads} | {what} | {form} | {median:.1f} | {ratios} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", default="1,4,16")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument(
        "--measure", type=int, help=argparse.SUPPRESS
    )  # a process of its own for each number of threads
    options = parser.parse_args()
    folder = options.work / "quantized"
    if options.measure:
        return measure(folder, [int(r) for r in options.rows.split(",")], options.measure, options.rounds)
    compiled(folder, model_config())
    print(machine())
    print("| threads | step | weights | ms | plain / it | bfloat16 / it |")
    print("|---|---|---|---|---|---|", flush=True)
    for threads in options.threads.split(","):
        subprocess.run(
            [sys.executable, "-m", "benchmarks.quantized", f"--work={options.work}", f"--rounds={options.rounds}",
             f"--rows={options.rows}", f"--measure={threads}"],
            check=True, cwd=ROOT,
        )  # fmt: skip
    return None


if __name__ == "__main__":
    main()
