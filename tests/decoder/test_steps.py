"""Steps over the cache, and ranks side by side, against the whole sequence at once on one rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compiler.decoder.forward import forward
from compiler.errors import ParallelError
from compiler.model.parallel import check_parallel
from tests.simulated import SimulatedRanks
from tests.tiny import TINY
from tests.weights import model_config, rank_weights

TOLERANCE = 1e-4


def _tokens(vocab: int, *shape: int) -> Tensor:
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(2))


def _positions(rows: int, start: int, stop: int) -> Tensor:
    return torch.arange(start, stop).expand(rows, stop - start)


def _close(found: Tensor, expected: Tensor) -> None:
    """Compare at the scale of the logits, which models without a soft cap make large."""
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("case", TINY)
def test_chunks_and_single_tokens_give_the_logits_of_the_whole(
    case: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    folder = tiny_checkpoint(case)
    config, ranks = model_config(folder), rank_weights(folder, tp=1)
    token_ids = _tokens(config.vocab, 2, 16)
    steps = SimulatedRanks(config, ranks, batch=2, positions=16)
    bounds = [(0, 7), (7, 12), (12, 13), (13, 14), (14, 16)]
    logits = [steps.step(token_ids[:, a:b], _positions(2, a, b)) for a, b in bounds]
    _close(torch.cat(logits, 1), forward(config, ranks[0], token_ids))


@pytest.mark.parametrize("case", ["llama", "mistral", "mixtral"])
def test_rows_of_different_length_share_a_step(case: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint(case)
    config, ranks = model_config(folder), rank_weights(folder, tp=1)
    lengths = torch.tensor([5, 9, 1])
    token_ids = _tokens(config.vocab, 3, 20)
    alone = [forward(config, ranks[0], token_ids[row : row + 1, : n + 6])[0] for row, n in enumerate(lengths)]
    # Behind its prompt a row has padding; what that leaves in the cache must never show.
    padded = torch.where(torch.arange(9) < lengths[:, None], token_ids[:, :9], 3)
    steps = SimulatedRanks(config, ranks, batch=3, positions=20)
    logits = steps.step(padded, _positions(3, 0, 9), last=lengths[:, None] - 1)
    for row, n in enumerate(lengths):
        _close(logits[row, 0], alone[row][n - 1])
    for i in range(6):
        at = lengths[:, None] + i
        logits = steps.step(token_ids.gather(1, at), at)
        for row, n in enumerate(lengths):
            _close(logits[row, 0], alone[row][n + i])


def test_a_smaller_batch_uses_the_first_rows(tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint("llama")
    config, ranks = model_config(folder), rank_weights(folder, tp=1)
    token_ids = _tokens(config.vocab, 3, 8)
    steps = SimulatedRanks(config, ranks, batch=3, positions=8)
    steps.step(token_ids[:, :6], _positions(3, 0, 6))
    expected = forward(config, ranks[0], token_ids)
    for rows, at in ((2, 6), (1, 7)):
        logits = steps.step(token_ids[:rows, at : at + 1], _positions(rows, at, at + 1))
        _close(logits, expected[:rows, at : at + 1])


def _works(case: str, tp: int, folder: Path) -> bool:
    try:
        check_parallel(model_config(folder), tp)
    except ParallelError:
        return False
    return True


@pytest.mark.parametrize("tp", [2, 3, 4, 8])
@pytest.mark.parametrize("case", TINY)
def test_ranks_together_compute_what_one_computes(case: str, tp: int, tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint(case)
    if not _works(case, tp, folder):
        with pytest.raises(ParallelError):
            rank_weights(folder, tp)
        return
    config = model_config(folder)
    token_ids = _tokens(config.vocab, 2, 12)
    steps = SimulatedRanks(config, rank_weights(folder, tp), batch=2, positions=12)
    logits = [
        steps.step(token_ids[:, :11], _positions(2, 0, 11)),
        steps.step(token_ids[:, 11:], _positions(2, 11, 12)),
    ]
    _close(torch.cat(logits, 1), forward(config, rank_weights(folder, 1)[0], token_ids))


def test_ranks_with_each_others_kv_heads_are_noticed(tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint("mixtral")
    config, ranks = model_config(folder), rank_weights(folder, 4)
    q = config.heads // 4 * config.head_dim
    name = "layers.1.attn.qkv.weight"
    exchanged = torch.cat((ranks[0][name][:q], ranks[1][name][q:]))
    ranks[0][name] = exchanged
    token_ids = _tokens(config.vocab, 2, 12)
    steps = SimulatedRanks(config, ranks, batch=2, positions=12)
    logits = steps.step(token_ids, _positions(2, 0, 12))
    assert (logits - forward(config, rank_weights(folder, 1)[0], token_ids)).abs().max() > 100 * TOLERANCE
