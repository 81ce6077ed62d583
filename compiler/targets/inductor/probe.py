"""Windows and chunks of compiled attention, at their own length: packages against the same segment in plain torch.

A window is a constant of a package, and rows longer than 4096 tokens take minutes through a whole model. One segment
with made-up weights and caches takes milliseconds: values are zero except for keys on both sides of the limit, so that
a key too many or too few changes the output by a multiple of its rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.decoder.segments import ATTENDING, PHASES, input_names, weight_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor

    from compiler.decoder.segments import SegmentSpec

    Run = Callable[[SegmentSpec, list[Tensor]], Tensor]

TOKENS, ROWS = 12, 2
"""Tokens of a row where a phase takes several, and rows."""
_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 6e-2}
"""Largest difference, as a share of the largest output."""


_MLP = ("mlp.", "moe.", "shared.")
"""Weights of a whole layer that are zero, so that its output is x and the summand of attention. Static scales of inputs
are not: inputs are divided by them.
"""


def attention_problems(specs: Sequence[SegmentSpec], run: Run, device: str = "cpu") -> list[str]:
    """Packages whose limits are wrong, one line each. `run` computes a segment from its inputs in order.

    Specs that are not of attention, or have no limit, are left out.
    """
    import torch

    from compiler.targets.inductor.graph import Segment

    problems = []
    for spec in specs:
        limit = spec.kind and (spec.kind.window or spec.kind.chunk)
        if spec.part not in ATTENDING or not limit:
            continue
        with torch.no_grad():
            inputs = _inputs(spec, limit, device)
            expected = Segment(spec)(*(tensor.clone() for tensor in inputs)).float()
            found = run(spec, inputs).float()
        difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-20))
        if not difference <= _TOLERANCE[spec.dtype]:
            problems.append(f"`{spec.name}` is off by {difference:.1%} at its limit of {limit} positions")
    return problems


def _inputs(spec: SegmentSpec, limit: int, device: str) -> list[Tensor]:
    """Inputs of the segment at positions around `limit`, in order."""
    import torch

    from compiler.decoder.rotary import named_tables
    from compiler.targets.inductor.graph import STEP, fixed_sizes, input_dtype

    generator = torch.Generator().manual_seed(0)
    phase = next(phase for phase in PHASES if phase.name == spec.phase)
    rows, tokens = phase.batch or ROWS, phase.length or TOKENS
    # A single token is a few positions beyond the limit; several begin before it.
    begin = limit + 5 if tokens == 1 else max(limit - 2, 0)
    positions = begin + 7 * torch.arange(rows)[:, None] + torch.arange(tokens)
    used = int(positions.max()) + 1
    sizes = fixed_sizes(spec) | {"B": rows, "Bmax": rows, "S": tokens, "L": used, "T": used + 8, "R": used + 8}
    dtype: torch.dtype = getattr(torch, spec.dtype)
    known = {
        "positions": positions,
        "key_positions": torch.arange(used),
        "first": torch.ones((), dtype=dtype),
        **named_tables(spec.config, used + 8, dtype),
    }

    weights = weight_shapes(spec)

    def made(name: str) -> Tensor:
        if name in known:
            return known[name]
        axes: tuple[str | int, ...] = STEP[name] if name in STEP else weights[name]
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in axes]
        # x is zero where it is added to the summand, which it would hide; so are the queries, then.
        if (name == "x" and spec.part == "layer") or (name.startswith(_MLP) and not name.endswith("input_scale")):
            return torch.zeros(shape, dtype=input_dtype(name, spec, weights))
        values = torch.randn(shape, generator=generator)
        if name == "cache_v":
            values *= _edges(shape[1], positions, limit)[:, None, None]
        elif name not in STEP:
            values = _weight(name, values)
        return _cast(values, input_dtype(name, spec, weights))

    return [made(name).to(device) for name in input_names(spec)]


def _weight(name: str, values: Tensor) -> Tensor:
    """A weight from normally distributed values: small, so that no key outweighs others, and without biases."""
    if name.endswith(".bias"):
        return values * 0
    if name.endswith("scale"):
        return (values.abs() + 1) * (0.01 if "cache" in name else 0.001)
    return values * 0.03


def _cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values in `dtype`; those of integers are 20 times as large, and those beyond its range are at its end."""
    import torch

    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        return (values * 20).round().clamp(info.min, info.max).to(dtype)
    largest = torch.finfo(dtype).max
    return values.clamp(-largest, largest).to(dtype)


def _edges(length: int, positions: Tensor, limit: int) -> Tensor:
    """Factors of the values at cache positions [length]: `limit` near the first key that a query sees, else 0."""
    import torch

    factors = torch.zeros(length)
    first, last = int(positions.min()), int(positions.max())
    factors[max(first - limit - 2, 0) : last - limit + 3] = limit
    factors[max(limit - 6, 0) : limit] = limit  # keys before a chunk
    return factors
