"""All ranks of a model in one process: summands are added up, columns laid side by side, as the ranks themselves do.

Each rank is a mapping of the tensors of its file, by their names inside the layer or outside all layers. x is the whole
residual stream of whole sequences [1, S, H], float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compiler.decoder.decoder import attn, embed, head, mlp
from compiler.decoder.forward import step_tensors
from compiler.decoder.kernels import Kernels
from compiler.model.config import LayerKind, ModelConfig
from compiler.model.parallel import head_layout

Rank = Mapping[str, Tensor]


def embed_sum(config: ModelConfig, ranks: Sequence[Rank], token_ids: Tensor) -> Tensor:
    """token_ids [1, S]; each rank's table begins at row 0 and has zeros where another holds the row."""
    return _sum([embed(config, {**step, **rank}) for step, rank in _with_steps(config, ranks, token_ids)])


def attn_sum(config: ModelConfig, kind: LayerKind, ranks: Sequence[Rank], x: Tensor, kernels: Kernels) -> Tensor:
    shape = (*x.shape[:2], head_layout(config.heads, config.kv_heads, len(ranks)).kv_heads, config.head_dim)

    def cache(rank: Rank) -> Tensor:
        return torch.zeros(shape, dtype=kernels.cached if "attn.k.cache_scale" in rank else x.dtype)

    return _sum(
        [
            attn(config, kind.window, {**step, **rank, "x": x, "cache_k": cache(rank), "cache_v": cache(rank)}, kernels)
            for step, rank in _with_steps(config, ranks, _places(x))
        ]
    )


def mlp_sum(config: ModelConfig, kind: LayerKind, ranks: Sequence[Rank], x: Tensor, kernels: Kernels) -> Tensor:
    steps = _with_steps(config, ranks, _places(x))
    return _sum([mlp(config, kind, {**step, **rank, "x": x}, kernels) for step, rank in steps])


def log_probabilities(config: ModelConfig, ranks: Sequence[Rank], x: Tensor, kernels: Kernels) -> Tensor:
    """float32 [S, vocab]: of the token behind each."""
    columns = [head(config, {**rank, "x": x, "last": _places(x)}, kernels) for rank in ranks]
    return torch.cat(columns, -1)[0, :, : config.vocab].log_softmax(-1)


def _with_steps(config: ModelConfig, ranks: Sequence[Rank], token_ids: Tensor) -> list[tuple[dict[str, Tensor], Rank]]:
    """Each rank with what it reads besides weights and x."""
    found = []
    for r, rank in enumerate(ranks):
        step = step_tensors(config, token_ids, torch.float32)
        step["first"] = torch.tensor(float(r == 0))
        if config.position == "alibi":
            step["alibi.slopes"] = step["alibi.slopes"].chunk(len(ranks))[r]
        found.append((step, rank))
    return found


def _places(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1])[None]


def _sum(summands: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(summands)).sum(0)
