"""Damage that the gate must find, and clean schemes that it must pass, on trained models.

    python -m benchmarks.damage --work DIR [--real FOLDER] [--models llama,gpt2,real] [--targets inductor,trtllm]
                                [--schemes NAMES] [--clean] [--steps 150]

Two models of 12 million parameters are trained in DIR (`scripts/tiny_checkpoint --width 384`) and get outliers
(benchmarks/planted.py); `--real` is a checkpoint of its own. Every scheme is converted at tp 2 (tp 1 where groups do
not divide) and gated; then one tensor in the middle layer is damaged at a time, in one rank where it has an effect
there, and the files are gated again over fewer tokens. "passes" in the column of cosines: the rule of the gate until
November 2026, by which a part's own output had a least cosine, overlooks the damage.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import recipes
from benchmarks.planted import Planted, judged, planted
from benchmarks.quantized_files import QuantizedFiles, quantize
from benchmarks.testbed.text import docstrings
from benchmarks.tinyllama import machine
from compiler import targets
from compiler.calibration import activations as calibrate
from compiler.calibration.samples import HELD_OUT, read_samples
from compiler.errors import RefusedError
from compiler.model.account import account
from compiler.model.roles import TensorId
from compiler.numerics.gate.measure import Extent, measure
from compiler.numerics.gate.verdict import part_problems
from compiler.quantization.request import Quant, scheme_of
from compiler.storage.checkpoints.checkpoint import open_checkpoint
from compiler.storage.checkpoints.header import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from compiler.calibration.samples import Samples
    from compiler.numerics.gate.verdict import PartError, Verdict
    from compiler.quantization.schemes import Tolerance

SIZES = {"llama": ("--width", "384", "--layers", "6"), "gpt2": ("--width", "384", "--layers", "8")}
CALIBRATED = 24
"""Samples that a real model is calibrated on."""
SAME_DISTANCE = 0.03
"""Difference of the distance from the scheme, in errors of the scheme, up to which damage has no effect: correct files
may be as far.
"""
TOKENS = 256
"""Tokens with which damaged files are gated; also those of a sample."""
SCHEMES = {
    **{name: Quant(scheme_of(name)) for name in ("int8-weight", "int4-weight", "gptq", "awq", "smoothquant", "fp8")},
    **{f"{name} 32": Quant(scheme_of(name), group=32) for name in ("int4-weight", "gptq", "awq")},
    "static W8A8": Quant(scheme_of("smoothquant", per_token=False)),
    "cache int8": Quant(cache="int8"),
    "cache fp8": Quant(cache="fp8"),
}
LEAST_COSINE = {"int8-weight": 0.999, "int4-weight": 0.97, "gptq": 0.97, "awq": 0.97, "cache int8": 0.999}
"""Limits of the earlier rule; 0.99 for others."""
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I8": torch.int8, "U8": torch.uint8, "F8_E4M3": torch.uint8}


@dataclass(frozen=True)
class Damage:
    """A change of one tensor of a layer. `names`: its name in the files, the first one that they have; `all_ranks`: in
    every rank, else in the second.
    """

    name: str
    names: tuple[str, ...]
    change: Callable[[Tensor], Tensor]
    all_ranks: bool = False


def _swapped(axis: int) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        order = torch.arange(x.shape[axis])
        order[[3, 11]] = order[[11, 3]]
        return x.index_select(axis, order)

    return change


def _off_by_one(units: Tensor) -> Tensor:
    """Units of a zero point that is off by one; of two packed in a byte, both."""
    if units.dtype == torch.int8:
        return torch.where(units < 127, units + 1, units)
    low, high = units & 15, units >> 4
    return torch.where(low == 7, low, (low + 1) & 15) | torch.where(high == 7, high, (high + 1) & 15) << 4


def _first_doubled(x: Tensor) -> Tensor:
    found = x.clone()
    if found.numel() > 1:  # else it is the scale of the whole matrix: another fault
        found.view(-1)[5] *= 2
    return found


DAMAGES = (
    Damage(
        "scale doubled in one rank",
        ("attn.o.scale", "attention.dense.per_channel_scale", "attention.dense.weights_scaling_factor"),
        lambda x: 2 * x,
    ),
    Damage(
        "scale of one output doubled",
        ("mlp.down.scale", "mlp.proj.per_channel_scale", "mlp.proj.weights_scaling_factor"),
        _first_doubled,
    ),
    Damage("two outputs swapped", ("attn.o.weight", "attention.dense.weight"), _swapped(0)),
    Damage("two inputs swapped", ("attn.o.weight", "attention.dense.weight"), _swapped(1)),
    Damage("zero point off by one", ("attn.qkv.weight", "attention.qkv.weight"), _off_by_one),
    Damage("scales of rows shifted", ("attn.qkv.scale", "attention.qkv.per_channel_scale"), lambda x: x.roll(1)),
    Damage("bias lost", ("attn.qkv.bias", "attention.qkv.bias"), torch.zeros_like, all_ranks=True),
    Damage("smoothing not folded", ("mlp.norm.weight", "post_layernorm.weight"), lambda x: x, all_ranks=True),
    Damage("smoothing not divided", ("mlp.proj.smoother", "mlp.proj.prequant_scaling_factor"), torch.ones_like),
    Damage(
        "fixed input scale halved",
        ("mlp.gate_up.input_scale", "mlp.up.input_scale", "mlp.fc.activation_scaling_factor"),
        lambda x: x / 2,
    ),
    Damage("cache scale doubled, keys", ("attn.k.cache_scale", "attention.kv_cache_scaling_factor"), lambda x: 2 * x),
    Damage("cache scale doubled, values", ("attn.v.cache_scale",), lambda x: 2 * x),
)


@contextmanager
def _real(folder: Path, work: Path) -> Iterator[Planted]:
    """The checkpoint as it is, calibrated once on docstrings of the standard library, which the gate does not read."""
    from safetensors.numpy import load_file

    checkpoint = open_checkpoint(folder)
    recipe = recipes.for_config(checkpoint.config)[1].resolve(checkpoint.config)
    config = recipe.model_config(checkpoint.config)
    tensors = account(recipe, config, checkpoint.tensors).tensors
    maxima = work / "real-docstrings"
    maxima.mkdir(parents=True, exist_ok=True)
    (maxima / "text.txt").write_text("\n\n".join(docstrings()))
    text = read_samples(maxima / "text.txt", folder, vocab=config.vocab, count=CALIBRATED, length=TOKENS)
    if not (maxima / calibrate.RESULT).exists():
        calibrate.calibrate(config, tensors, checkpoint, text, work=maxima / "work", out=maxima)
    held_out = read_samples(None, folder, vocab=config.vocab, count=4, length=TOKENS, own=HELD_OUT)
    with tempfile.TemporaryDirectory(dir=work) as out:
        yield Planted(config, tensors, checkpoint, load_file(maxima / calibrate.RESULT), text, held_out, Path(out))


def _rows(name: str, model: Planted, target: str, only: str, *, clean: bool) -> Iterator[str]:
    for scheme, asked in SCHEMES.items():
        if only and scheme not in only.split(","):
            continue
        made = _quantized(model, target, asked)
        if isinstance(made, str):
            yield f"{name} | {target} | {scheme} | | | | | | refused by the plan: {made}"
            continue
        verdict = measure(model.stored, made.side(), model.held_out, scheme=made.scheme)
        found = verdict.evidence
        low, high = found.increase_interval
        parts = {
            "stream": max(part.stream for part in verdict.parts),
            "distance": max(part.distance or 0.0 for part in verdict.parts),
            "channel": max(part.channel_distance or 0.0 for part in verdict.parts),
        }
        cosine = min(part.cosine for part in verdict.parts)
        old = "passes" if cosine >= LEAST_COSINE.get(scheme, 0.99) else "refused"
        yield (
            f"{name} | {target} | {scheme} | clean: {found.increase:+.2%} ({low:+.2%} to {high:+.2%}), "
            f"KL {found.kl:.4f} | {parts['stream']:.3%} | {parts['distance']:.3f} | {parts['channel']:.3f} "
            f"| {cosine:.5f} {old} | {_word(verdict, made.tolerance)}"
        )
        if not clean:
            yield from (f"{name} | {target} | {scheme} | {row}" for row in _damaged(model, made, scheme))


def _word(verdict: Verdict, limits: Tolerance) -> str:
    """Word of the gate on clean files. A scheme that costs more than its limit is rightly refused."""
    word = judged(verdict, limits)
    within = verdict.evidence.increase <= limits.perplexity and verdict.evidence.kl <= limits.kl
    return f"{word} WRONGLY" if word == "refused" and within else word


def _quantized(model: Planted, target: str, asked: Quant) -> QuantizedFiles | str:
    loaded, reason = targets.load(target), ""
    for tp in (2, 1):
        try:
            return quantize(model, loaded, asked, tp)
        except RefusedError as error:
            reason = error.message
    return reason


def _damaged(model: Planted, made: QuantizedFiles, scheme: str) -> Iterator[str]:
    layer = model.config.layers // 2
    samples = model.held_out.within(0, TOKENS)
    clean = _parts(model, made, samples, layer)
    for damage in DAMAGES:
        with _applied(damage, model, made, layer) as applied:
            if not applied:
                continue
            parts = _parts(model, made, samples, layer)
        part = max(parts, key=lambda one: one.distance or 0.0)
        before = next(one for one in clean if one.name == part.name)
        # An equal error is no equal output: only files that compute what they computed before are not damaged.
        same = abs((part.distance or 0.0) - (before.distance or 0.0)) <= SAME_DISTANCE
        problems = [problem for one in parts for problem in part_problems(one, made.tolerance)]
        old = min(one.cosine for one in parts) >= LEAST_COSINE.get(scheme, 0.99)
        result = "caught" if problems else "no effect" if same else "MISSED"
        yield (
            f"{damage.name} | {part.stream:.3%} | {part.distance:.3f} | {part.channel_distance:.3f} "
            f"| {part.cosine:.5f} {'passes' if old else 'caught'} | {result}"
        )


def _parts(model: Planted, made: QuantizedFiles, samples: Samples, layer: int) -> tuple[PartError, ...]:
    verdict = measure(model.stored, made.side(), samples, scheme=made.scheme, extent=Extent(TOKENS, (layer,)))
    return verdict.parts


@contextmanager
def _applied(damage: Damage, model: Planted, made: QuantizedFiles, layer: int) -> Iterator[bool]:
    """Whether the files have the tensor and are damaged; they are whole again behind it."""
    written: list[tuple[Path, int, bytes]] = []
    ranks = made.files if damage.all_ranks else made.files[-1:]
    for path in ranks:
        entries = read_header(path)
        names = (f"{prefix}{layer}.{name}" for name in damage.names for prefix in ("layers.", "transformer.layers."))
        name = next((name for name in names if name in entries), None)
        entry = entries[name] if name is not None else None
        if entry is None or entry.dtype not in _DTYPES:
            continue
        with path.open("r+b") as file:
            file.seek(entry.offset)
            before = file.read(entry.nbytes)
            stored = torch.frombuffer(bytearray(before), dtype=_DTYPES[entry.dtype]).reshape(entry.shape)
            if damage.name == "zero point off by one" and (entry.dtype in ("BF16", "F8_E4M3")):
                continue
            changed = damage.change(stored)
            if damage.name == "smoothing not folded":
                source = model.stored.canonical(TensorId("mlp.norm", "weight", layer))
                changed = torch.from_numpy(source).reshape(entry.shape)
            after = changed.to(stored.dtype).contiguous().view(torch.uint8).numpy().tobytes()
            if after == before:
                continue
            file.seek(entry.offset)
            file.write(after)
        written.append((path, entry.offset, before))
    try:
        yield bool(written)
    finally:
        for path, offset, before in written:
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--models", default="llama,gpt2,real")
    parser.add_argument("--targets", default="inductor,trtllm")
    parser.add_argument("--schemes", default="", help="names, separated by commas; all without it")
    parser.add_argument("--steps", type=int, default=150, help="of training the two models")
    parser.add_argument("--clean", action="store_true", help="leave the damage out")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(machine())
    heads = ("model", "target", "scheme", "files", "stream", "distance", "channel", "least cosine, its rule", "gate")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|", flush=True)
    missed = 0
    for name in options.models.split(","):
        if name == "real" and options.real is None:
            print("no --real: its rows are left out", file=sys.stderr)
            continue
        opened = (
            _real(options.real, options.work)
            if name == "real"
            else planted(name, options.work, options.steps, SIZES[name])
        )
        with opened as model:
            for target in options.targets.split(","):
                for row in _rows(name, model, target, options.schemes, clean=options.clean):
                    missed += row.endswith(("MISSED", "WRONGLY"))
                    print(f"| {row} |", flush=True)
    print(f"{missed} rows are wrong: damage that was missed, or a clean scheme that was refused")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
