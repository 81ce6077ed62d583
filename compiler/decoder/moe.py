"""Mixture of experts: a router chooses k experts for each token; their outputs are summed by the router's weights.

`loop` and `gather` compute the same. `loop` goes over the experts and takes the tokens of each: every weight is read
once, which suits many tokens. `gather` takes the weights of the chosen experts for each token: other experts are not
read, which suits few tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.mlp import ACTIVATIONS
from compiler.model.config import Activation

Experts = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Activation], Tensor]
"""x [N, H], chosen [N, k] int64, share [N, k] float32, gate_up [E, 2 F, H], down [E, H, F], activation -> [N, H]."""


def route(logits: Tensor, k: int, *, renormalize: bool) -> tuple[Tensor, Tensor]:
    """Router logits [N, E] -> the k experts of each token, int64 [N, k], and their shares, float32 [N, k].

    Shares are softmax probabilities over all experts; with `renormalize` the shares of the chosen experts sum to 1.
    """
    share, chosen = torch.topk(F.softmax(logits.float(), dim=-1), k, dim=-1)
    return chosen, share / share.sum(-1, keepdim=True) if renormalize else share


def loop(x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation) -> Tensor:
    """Expert by expert over the tokens that chose it; see `Experts` for the shapes. Sums in float32."""
    return loop_over(x, chosen, share, gate_up.shape[0], lambda y, e: _expert(y, gate_up[e], down[e], kind))


def loop_over(x: Tensor, chosen: Tensor, share: Tensor, experts: int, run: Callable[[Tensor, int], Tensor]) -> Tensor:
    """`loop` for any `run(tokens [n, H], expert) -> [n, H]`; n may be 0."""
    total = torch.zeros_like(x, dtype=torch.float32)
    for expert in range(experts):
        token, slot = torch.where(chosen == expert)
        y = run(x[token], expert)
        total = total.index_add(0, token, y.float() * share[token, slot, None])
    return total.to(x.dtype)


def _expert(x: Tensor, gate_up: Tensor, down: Tensor, kind: Activation) -> Tensor:
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    return F.linear(ACTIVATIONS[kind](gate) * up, down)


def gather(x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation) -> Tensor:
    """Token by token over the weights of its experts; see `Experts` for the shapes. Sums in float32."""
    gate, up = torch.einsum("nh,nkfh->nkf", x, gate_up[chosen]).chunk(2, -1)
    y = torch.einsum("nkf,nkhf->nkh", ACTIVATIONS[kind](gate) * up, down[chosen])
    return (y.float() * share[..., None]).sum(1).to(x.dtype)
