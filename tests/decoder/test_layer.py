"""The wiring of a layer, against the formulas of its four kinds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compiler.decoder.layer import layer
from compiler.model.config import ModelConfig
from tests.tiny import model_config

RANKS = 3


class Blocks:
    """Blocks whose summands are told apart: rank r of `attn` gives (r + 1) * tanh(x), of `mlp` (r + 1) * x^2."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def qkv(self, x: Tensor, /) -> Tensor:
        self.calls.append("qkv")
        return torch.stack([(r + 1) * x for r in range(RANKS)])

    def mean_squares(self, qkv: Tensor, /) -> Tensor:
        return qkv.square().mean(-1, keepdim=True) / RANKS

    def attn(self, x: Tensor, mean_squares: Tensor | None = None, /) -> Tensor:
        self.calls.append("attn")
        if mean_squares is not None:
            return x * mean_squares.rsqrt()
        return torch.stack([(r + 1) * x.tanh() for r in range(RANKS)])

    def mlp(self, x: Tensor, /) -> Tensor:
        self.calls.append("mlp")
        return torch.stack([(r + 1) * x.square() for r in range(RANKS)])

    def sum(self, summand: Tensor, /) -> Tensor:
        self.calls.append("sum")
        return summand.sum(0)

    def norm(self, role: str, y: Tensor, /) -> Tensor:
        self.calls.append(role)
        return y / y.square().mean(-1, keepdim=True).sqrt()


def _attn(x: Tensor) -> Tensor:
    return 6 * x.tanh()


def _mlp(x: Tensor) -> Tensor:
    return 6 * x.square()


def _unit(y: Tensor) -> Tensor:
    return y / y.square().mean(-1, keepdim=True).sqrt()


CONFIG = model_config("llama")
X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("config", "calls"),
    [
        (CONFIG, ["attn", "sum", "mlp", "sum"]),
        (replace(CONFIG, norms="after"), ["attn", "sum", "attn.post_norm", "mlp", "sum", "mlp.post_norm"]),
        (replace(CONFIG, norms="both"), ["attn", "sum", "attn.post_norm", "mlp", "sum", "mlp.post_norm"]),
        (replace(CONFIG, parallel_residual=True), ["attn", "mlp", "sum"]),
    ],
    ids=["before", "after", "both", "parallel"],
)
def test_blocks_sums_and_norms_stand_where_the_kind_of_layer_has_them(config: ModelConfig, calls: list[str]) -> None:
    blocks = Blocks()
    found = layer(config, blocks, X)
    assert blocks.calls == calls
    norm = _unit if config.norms != "before" else lambda y: y
    if config.parallel_residual:
        expected = X + _attn(X) + _mlp(X)
    else:
        behind = X + norm(_attn(X))
        expected = behind + norm(_mlp(behind))
    torch.testing.assert_close(found, expected)


def test_statistics_of_all_heads_are_summed_before_attention_goes_on() -> None:
    blocks = Blocks()
    found = layer(replace(CONFIG, qk_norm=True, qk_norm_over="all_heads"), blocks, X)
    assert blocks.calls[:4] == ["qkv", "sum", "attn", "sum"]
    squares = sum((r + 1) ** 2 for r in range(RANKS)) / RANKS * X.square().mean(-1, keepdim=True)
    behind = X + 6 * X * squares.rsqrt()
    torch.testing.assert_close(found, behind + _mlp(behind))


def test_each_block_is_seen_with_its_input_and_its_summand() -> None:
    seen: list[tuple[str, Tensor, Tensor]] = []
    layer(CONFIG, Blocks(), X, lambda block, x, summand: seen.append((block, x, summand.sum(0))))
    assert [block for block, _, _ in seen] == ["attn", "mlp"]
    torch.testing.assert_close(seen[0][1:], (X, _attn(X)))
    torch.testing.assert_close(seen[1][1:], (X + _attn(X), _mlp(X + _attn(X))))
