"""Wiring of a layer, top to bottom: the one function that every way to run the decoder calls.

A block (attention, mlp) gives this rank's summand of its addition to the residual stream x. A norm before a block is
part of it; a norm after it is applied to the sum over ranks.

    norms before (Llama)      x = x + sum(attn(x))            x = x + sum(mlp(x))
    norms after (OLMo-2)      x = x + norm(sum(attn(x)))      x = x + norm(sum(mlp(x)))
    both (Gemma-2)            the same; the blocks have their norms before, too
    parallel (GPT-J)          x = x + sum(attn(x) + mlp(x))

Granite multiplies what is added to x by one factor, `residual_scale`.

Implementations of `Blocks`:

    ranks.py               all ranks in one process, in plain torch; with one rank, the whole model (forward.py)
    runtime/engine.py      one rank of several processes, by compiled segments
    numerics/gate          a judge of rank files
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from compiler.model.roles import norm_after

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.model.config import LayerKind, ModelConfig
    from compiler.model.roles import Block

Seen = Callable[["Block", "Tensor", "Tensor"], None]
"""Called after each block with its input x and its summand."""


class Blocks(Protocol):
    """One layer. x [B, S, H] is the residual stream; a summand may have a leading axis of ranks.

    Only some layers call the methods with a body: those with norms after sums, or with statistics of all heads.
    """

    def qkv(self, x: Tensor, /) -> Tensor:
        """Projections of attention, for layers that sum statistics over ranks before the rest of attention."""
        raise AssertionError(f"attention is not computed in parts here: {x.shape}")

    def mean_squares(self, qkv: Tensor, /) -> Tensor:
        """This rank's summand of the mean squares of q and of k over all heads, float32 [B, S, 2]."""
        raise AssertionError(f"attention is not computed in parts here: {qkv.shape}")

    def attn(self, x: Tensor, mean_squares: Tensor | None = None, /) -> Tensor:
        """Summand of attention, from x, or from the projections `qkv(x)` and the mean squares."""

    def mlp(self, x: Tensor, /) -> Tensor:
        """Summand of the mlp."""

    def sum(self, summand: Tensor, /) -> Tensor:
        """Sum over ranks. May overwrite `summand`."""

    def norm(self, role: str, y: Tensor, /) -> Tensor:
        """Norm `role` of this layer, applied to y [B, S, H]."""
        raise AssertionError(f"this layer has no `{role}` for {y.shape}")


def _unseen(_block: Block, _x: Tensor, _summand: Tensor) -> None:
    pass


def layer(config: ModelConfig, blocks: Blocks, x: Tensor, seen: Seen = _unseen) -> Tensor:
    """Residual stream after the layer."""
    if config.parallel_residual:
        attn, mlp = attention(config, blocks, x), blocks.mlp(x)
        seen("attn", x, attn)
        seen("mlp", x, mlp)
        return x + _scaled(config, blocks.sum(attn + mlp))
    attn = attention(config, blocks, x)
    seen("attn", x, attn)
    x = x + added(config, blocks, "attn", blocks.sum(attn))
    mlp = blocks.mlp(x)
    seen("mlp", x, mlp)
    return x + added(config, blocks, "mlp", blocks.sum(mlp))


def attention(config: ModelConfig, blocks: Blocks, x: Tensor) -> Tensor:
    """Summand of attention. A norm over all heads needs statistics from all ranks."""
    if not sums_statistics(config):
        return blocks.attn(x)
    qkv = blocks.qkv(x)
    return blocks.attn(qkv, blocks.sum(blocks.mean_squares(qkv)))


def sums_statistics(config: ModelConfig) -> bool:
    """Whether attention is computed in two parts, since ranks exchange statistics inside it."""
    return config.qk_norm and config.qk_norm_over == "all_heads"


def table_names(config: ModelConfig, kind: LayerKind) -> tuple[str, ...]:
    """Names of the cosines and sines that layers of this kind read; none where they do not rotate."""
    if config.position != "rope" or kind.rope == "none":
        return ()
    prefix = "rope" if kind.rope == "main" else "rope_local"
    return f"{prefix}.cos", f"{prefix}.sin"


def alibi_names(config: ModelConfig) -> tuple[str, ...]:
    """Names of the slopes or biases that attention reads for ALiBi positions."""
    if config.position != "alibi":
        return ()
    return ("alibi.slopes",) if config.alibi == "distance" else ("alibi.key_bias",)


def added(config: ModelConfig, blocks: Blocks, block: Block, y: Tensor) -> Tensor:
    """Addition of a block to the residual stream, from its sum over ranks y [B, S, H]."""
    role = norm_after(config, block)
    return _scaled(config, blocks.norm(role, y) if role else y)


def _scaled(config: ModelConfig, y: Tensor) -> Tensor:
    return y if config.residual_scale == 1.0 else y * config.residual_scale
