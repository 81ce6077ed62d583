"""Clips of int4 groups: perplexity of a model whose groups are clipped by searches, beside plain rounding.

    python -m benchmarks.clips --model FOLDER --work DIR [--samples 32] [--length 256] [--threads 2]

FOLDER is a checkpoint of Llama or Qwen2. Its linear layers but the head are rounded to int4 in groups of 128, with
scales from the largest magnitude of a group times a factor: 1, one of CLIPS for all groups (the noise of rounding), or
of each group the one of CLIPS with the least error of y over calibration rows, which are those of
`benchmarks/quantizers.py`, as is the judge:

    channels    sum over the group's columns j of D_oj^2 E[x_j^2], as if errors of columns were independent
    group       D_o E[x x^T] D_o^T over the group's columns, which has their correlation

q and k are not clipped, as in the code of AWQ's paper.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.quantizers import prepared, token_loss
from benchmarks.tinyllama import machine
from compiler.quantization.format import group_maxima, nearest
from compiler.quantization.formats import int4

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

GROUP = 128
CLIPS = tuple(1 - point / 20 for point in range(10))
NOT_CLIPPED = ("q_proj", "k_proj")


def maxima(weight: Tensor) -> Tensor:
    """Largest magnitudes of groups, [out, groups]."""
    return torch.from_numpy(group_maxima(weight.numpy(), GROUP))


def rounded(weight: Tensor, largest: Tensor) -> Tensor:
    """Weight rounded with these maxima, and dequantized."""
    return torch.from_numpy(nearest(weight.numpy(), int4.scales(largest.numpy()), int4.FORMAT))


def of_channels(off: Tensor, moments: Tensor) -> Tensor:
    squares = moments.diagonal(dim1=-2, dim2=-1).reshape(-1)
    return (off.square() * squares).reshape(len(off), -1, GROUP).sum(-1)


def of_group(off: Tensor, moments: Tensor) -> Tensor:
    groups = off.reshape(len(off), -1, GROUP).transpose(0, 1)
    return ((groups @ moments) * groups).sum(-1).T


def searched(weight: Tensor, moments: Tensor, error: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Clipped maxima with the least errors."""
    full = maxima(weight)
    best, least = full, torch.full_like(full, math.inf)
    for clip in CLIPS:
        found = error(rounded(weight, full * clip) - weight, moments)
        best, least = torch.where(found < least, full * clip, best), torch.minimum(found, least)
    return best


def watched(model: Any, linears: dict[str, torch.nn.Linear], rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """E[x x^T] of every group of inputs over rows of token ids, up to a factor."""
    moments: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def see(_module: object, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            groups = x.reshape(len(x), -1, GROUP).permute(1, 2, 0)
            moments[name] = moments.get(name, 0) + groups @ groups.transpose(1, 2)

        return see

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linears.items()]
    for ids in rows:
        model.model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM

    torch.set_grad_enabled(False)
    torch.set_num_threads(options.threads)
    testbed = prepared(options)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    moments = watched(model, linears, testbed.rows())
    source = token_loss(model, testbed.held_out)
    weights = {name: module.weight.clone() for name, module in linears.items()}
    print(f"{machine()}\nclips | perplexity | increase\nnone, not rounded | {math.exp(source):.4f} |", flush=True)
    forms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "1": lambda weight, _: maxima(weight),
        "0.95": lambda weight, _: maxima(weight) * 0.95,
        "0.9": lambda weight, _: maxima(weight) * 0.9,
        "channels": lambda weight, seen: searched(weight, seen, of_channels),
        "group": lambda weight, seen: searched(weight, seen, of_group),
    }
    for form, choose in forms.items():
        for name, module in linears.items():
            plain = name.endswith(NOT_CLIPPED) and form in ("channels", "group")
            largest = maxima(weights[name]) if plain else choose(weights[name], moments[name])
            module.weight.copy_(rounded(weights[name], largest))
        loss = token_loss(model, testbed.held_out)
        print(f"{form} | {math.exp(loss):.4f} | {math.exp(loss - source) - 1:+.2%}", flush=True)


if __name__ == "__main__":
    main()
