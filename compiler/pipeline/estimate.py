"""Duration of the stages of a planned build on this machine, from a measurement of a third of a second.

    products    float32 products, at half of the rate of a large one that is measured: attention, norms and activations
                run besides
    copies      weights that are read and widened, by the rate of one such copy in memory: disks may be slower
    proof       products on the device of calibration and gate (`--proof-device`)

Stages of compilers that this program only starts have no estimate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from compiler.calibration.linear_rows import linear_rows
from compiler.machine import cuda_capability
from compiler.model.roles import axis_sizes, linear_axes
from compiler.numerics.gate.extent import chosen_layers
from compiler.numerics.mixture import costs, trade
from compiler.numerics.mixture.choice import RUNGS
from compiler.quantization.groups import quantized_roles
from compiler.quantization.proof_levels import CPU, CUDA, PROOFS
from compiler.quantization.schemes import PARTS

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.pipeline.plan import Plan

_SIDE, _REPEATS = 768, 3
"""Size, and number, of the products of square matrices that this machine is measured by."""
_CUDA_SIDE = 4096
"""Size of such a product on a GPU."""
_COPIED = 8 << 20
"""Elements of the copy."""
_SHARE = 0.5
"""Share of the rate of products which a forward pass reaches."""


@dataclass(frozen=True)
class Rates:
    """`products`, `proof`: operations a second in float32, of the CPU and of the device of calibration and gate;
    `copies`: bytes of bfloat16 weights that are widened in a second.
    """

    products: float
    copies: float
    proof: float


def measured_rates(device: str = CPU) -> Rates:
    """Rates of this machine, with all its threads; the best of some runs. Without a GPU those of the CPU stand for it:
    a build would refuse `device`.
    """
    x = np.ones((_SIDE, _SIDE), np.float32)
    bits = np.ones(_COPIED, np.uint16)
    operations, nbytes = 2 * float(_SIDE) ** 3, float(bits.nbytes)
    products = operations / _best(lambda: x @ x)
    copies = nbytes / _best(lambda: (bits.astype(np.uint32) << 16).sum())
    on_gpu = device == CUDA and cuda_capability() is not None
    return Rates(products, copies, _cuda_products() if on_gpu else products)


def _cuda_products() -> float:
    """Operations a second of a float32 product on the GPU."""
    import torch

    x = torch.ones(_CUDA_SIDE, _CUDA_SIDE, device=CUDA)

    def run() -> None:
        torch.mm(x, x)
        torch.cuda.synchronize()

    return 2 * float(_CUDA_SIDE) ** 3 / _best(run)


def stage_seconds(plan: Plan, rates: Rates) -> dict[str, float]:
    """Duration of the stages of `plan` in seconds, roughly, by the names in `Plan.needs`; not of those that other
    programs do.
    """
    found = {name: of(plan, rates) for name, of in _STAGES.items()}
    return {need.stage: found[need.stage] for need in plan.needs if need.stage in found}


CALIBRATING = ("calibrate", "feedback", "mixture")
"""Stages that read the calibration text, or choose by measured costs."""


def calibration_seconds(config: ModelConfig, tokens: int, length: int, rate: float) -> float:
    """Time to calibrate on `tokens` in samples of `length`, by `Rates.products`."""
    return tokens * layer_operations(config, length) / (_SHARE * rate)


def layer_operations(config: ModelConfig, length: int) -> float:
    """Operations of all layers for one token of a sample of `length`; a token uses some of the experts."""
    sizes, products = axis_sizes(config), 0.0
    for kind in config.layer_kinds:
        for role in quantized_roles(config, kind):
            lead, rows, columns = linear_axes(role)
            share = config.experts_per_token if lead else 1
            products += share * prod(sizes[axis] for axis in (*rows, *columns))
        products += config.heads * config.head_dim * length  # scores and sums of values, half of them masked
    return 2 * products


def head_operations(config: ModelConfig) -> float:
    """Operations of the head for one token."""
    return 2.0 * config.vocab * config.hidden


def _calibrate(plan: Plan, rates: Rates) -> float:
    text = plan.quant.text
    tokens = text.tokens(plan.config.max_positions)
    return calibration_seconds(plan.config, tokens, text.length, rates.proof) + plan.source_bytes / rates.copies


def _feedback(plan: Plan, rates: Rates) -> float:
    """The text through every layer twice, the second moments of its inputs, and the factors of these."""
    config, text = plan.config, plan.quant.text
    sizes, tokens = axis_sizes(config), text.tokens(config.max_positions)
    work = 2 * tokens * layer_operations(config, text.length)
    for kind in config.layer_kinds:
        for role in {name: role for name, role, _ in linear_rows(config, kind)}.values():
            lead, rows, columns = linear_axes(role)
            width = prod(sizes[axis] for axis in columns)
            each = 2 * width**3 + 4 * prod(sizes[axis] for axis in rows) * width**2
            share = config.experts_per_token if lead else 1
            work += 2 * share * tokens * width**2 + prod(sizes[axis] for axis in lead) * each
    return work / (_SHARE * rates.proof) + 2 * plan.source_bytes / rates.copies


def _mixture(plan: Plan, rates: Rates) -> float:
    """Every part of a layer in two schemes through the layers behind it, and whole mixtures; each with a head."""
    config = plan.config
    models, length = len(PARTS) * 2 * config.layers, costs.LENGTH
    alone = layer_operations(config, length) * models / 2 + head_operations(config) * models
    whole = (layer_operations(config, length) + 2 * head_operations(config)) * (RUNGS + 1)
    work = costs.TOKENS * alone + trade.TOKENS * whole
    return work / (_SHARE * rates.proof) + 4 * plan.source_bytes / rates.copies


def _convert(plan: Plan, rates: Rates) -> float:
    scales = plan.source_bytes if plan.quant.requested else 0
    return (scales + plan.source_bytes + sum(rank.nbytes for rank in plan.ranks)) / rates.copies


def _gate(plan: Plan, rates: Rates) -> float:
    """Both sides over all tokens; the files and their scheme again over those of the parts."""
    config, level = plan.config, PROOFS[plan.quant.proof]
    length = max(plan.proof.rows[0], 1)
    compared = level.part_tokens * len(chosen_layers(config, level.layers)) / config.layers
    layers = layer_operations(config, length) * (2 * level.tokens + 2 * compared)
    work = layers + 2 * level.tokens * head_operations(config)
    # The source twice, once of these rounded by the scheme; and the files.
    return work / (_SHARE * rates.proof) + 4 * plan.source_bytes / rates.copies


def _proof(plan: Plan, rates: Rates) -> float:
    """The rows of a proof through all layers once: the reference, and a judge."""
    each = layer_operations(plan.config, max(plan.proof.rows)) + head_operations(plan.config)
    return plan.proof.tokens * each / (_SHARE * rates.products) + 2 * plan.source_bytes / rates.copies


_STAGES: Mapping[str, Callable[[Plan, Rates], float]] = {
    "calibrate": _calibrate,
    "feedback": _feedback,
    "mixture": _mixture,
    "convert": _convert,
    "gate": _gate,
    "reference": _proof,
    "judge": _proof,
}


def _best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs."""
    best = float("inf")
    for _ in range(_REPEATS + 1):  # the first starts threads
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best
