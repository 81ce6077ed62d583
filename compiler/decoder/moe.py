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

from compiler.decoder.mlp import gated
from compiler.model.config import Activation, ModelConfig

Biases = tuple[Tensor, Tensor] | None
"""Biases of all experts: gate_up [E, 2 F] and down [E, H]."""

Experts = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Activation, Biases], Tensor]
"""x [N, H], chosen [N, k] int64, share [N, k] float32, gate_up [E, 2 F, H], down [E, H, F], activation, biases
-> [N, H].
"""


def route(config: ModelConfig, logits: Tensor, correction: Tensor | None) -> tuple[Tensor, Tensor]:
    """Router logits [N, E] -> the k experts of each token, int64 [N, k], and their shares, float32 [N, k].

    `correction` float32 [E] is added to the scores for the choice alone. For the scores see `ModelConfig.router`; with
    `renormalize_experts` the shares of the chosen experts sum to 1, before `routed_scale`.
    """
    wide = logits.float()
    score = wide.softmax(-1) if config.router == "softmax" else wide.sigmoid()
    # Sigmoids of large logits are equal in float32, so that the logits choose.
    preference = wide if config.router == "sigmoid_of_input" else score
    if correction is not None:
        preference = preference + correction
    if config.expert_groups > 1:
        preference = _in_best_groups(config, preference)
    chosen = preference.topk(config.experts_per_token, -1).indices
    share = score.gather(-1, chosen)
    if config.renormalize_experts:
        share = share / share.sum(-1, keepdim=True)
    return chosen, share if config.routed_scale == 1.0 else share * config.routed_scale


def _in_best_groups(config: ModelConfig, preference: Tensor) -> Tensor:
    """preference [N, E], -inf for experts outside of each token's best groups. Groups are runs of experts."""
    grouped = preference.unflatten(-1, (config.expert_groups, -1))
    best = grouped.topk(2 if config.router == "corrected_sigmoid" else 1, -1).values.sum(-1)
    chosen = best.topk(config.expert_groups_used, -1).indices
    outside = torch.ones_like(best, dtype=torch.bool).scatter(-1, chosen, value=False)
    found: Tensor = grouped.masked_fill(outside[..., None], float("-inf")).flatten(-2)
    return found


def scaled_inputs(x: Tensor, chosen: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens for experts whose inputs, not outputs, have the shares: one row [N k, H] for each token and expert, its
    expert [N k, 1] and a share of 1.
    """
    rows = (x[:, None] * share[..., None]).to(x.dtype).flatten(0, 1)
    return rows, chosen.reshape(-1, 1), torch.ones_like(share).reshape(-1, 1)


def loop(
    x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation, biases: Biases = None,
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor] = F.linear,
) -> Tensor:  # fmt: skip
    """Expert by expert over the tokens that chose it; see `Experts` for the shapes. Sums in float32."""

    def run(tokens: Tensor, e: int) -> Tensor:
        first, second = (None, None) if biases is None else (biases[0][e], biases[1][e])
        return linear(gated(linear(tokens, gate_up[e], first), kind), down[e], second)

    return loop_over(x, chosen, share, gate_up.shape[0], run)


def loop_over(x: Tensor, chosen: Tensor, share: Tensor, experts: int, run: Callable[[Tensor, int], Tensor]) -> Tensor:
    """`loop` for any `run(tokens [n, H], expert) -> [n, H]`; n may be 0."""
    total = torch.zeros_like(x, dtype=torch.float32)
    for expert in range(experts):
        token, slot = torch.where(chosen == expert)
        y = run(x[token], expert)
        total = total.index_add(0, token, y.float() * share[token, slot, None])
    return total.to(x.dtype)


def of_chosen(y: Tensor, biases: Biases, index: int, chosen: Tensor) -> Tensor:
    """y [N, k, out] plus the bias `index` of the chosen experts [N, k]."""
    return y if biases is None else y + biases[index][chosen]


def gather(
    x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation, biases: Biases = None
) -> Tensor:
    """Token by token over the weights of its experts; see `Experts` for the shapes. Sums in float32."""
    inner = of_chosen(torch.einsum("nh,nkfh->nkf", x, gate_up[chosen]), biases, 0, chosen)
    y = of_chosen(torch.einsum("nkf,nkhf->nkh", gated(inner, kind), down[chosen]), biases, 1, chosen)
    return (y.float() * share[..., None]).sum(1).to(x.dtype)
