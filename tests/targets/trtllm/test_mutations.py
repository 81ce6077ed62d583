"""The judge must see every mistake that shapes do not reveal. Each is a layout's mistake, made in the files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.targets.trtllm.models import CASES, DIM, HEADS, TOKENS, tensors_of
from tests.targets.trtllm.ranks import config_of, logits, ranks_of

Array = NDArray[np.float32]
Rank = dict[str, Array]
LAYER = "transformer.layers.1."


def _swap_names(rank: Rank) -> None:
    fc, gate = LAYER + "mlp.fc.weight", LAYER + "mlp.gate.weight"
    rank[fc], rank[gate] = rank[gate], rank[fc]


def _swap_halves(rank: Rank) -> None:
    axis = rank[LAYER + "mlp.fc.weight"].ndim - 2
    first, second = np.split(rank[LAYER + "mlp.fc.weight"], 2, axis)
    rank[LAYER + "mlp.fc.weight"] = np.concatenate([second, first], axis)


def _swap_kv(rank: Rank) -> None:
    """k and v have one shape."""
    qkv = rank[LAYER + "attention.qkv.weight"]
    kv = (len(qkv) - HEADS // 2 * DIM) // 2
    q, k, v = np.split(qkv, [len(qkv) - 2 * kv, len(qkv) - kv])
    rank[LAYER + "attention.qkv.weight"] = np.concatenate([q, v, k])


def _double(name: str) -> Callable[[Rank], None]:
    def mutate(rank: Rank) -> None:
        rank[LAYER + name] = rank[LAYER + name] * 2

    return mutate


def _roll(name: str, rows: int) -> Callable[[Rank], None]:
    def mutate(rank: Rank) -> None:
        rank[LAYER + name] = np.roll(rank[LAYER + name], rows, 0)

    return mutate


def _transpose(rank: Rank) -> None:
    """A square matrix, stored input first."""
    square = rank["transformer.layers.0.attention.dense.weight"]
    rank["transformer.layers.0.attention.dense.weight"] = np.ascontiguousarray(square.reshape(square.shape[::-1]).T)


MUTATIONS: dict[str, tuple[str, Callable[[Rank], None]]] = {
    "fc and gate swapped": ("llama", _swap_names),
    "halves of a fused mlp swapped": ("phi3", _swap_halves),
    "halves of experts swapped": ("mixtral", _swap_halves),
    "k and v swapped": ("llama", _swap_kv),
    "query heads rotated": ("mistral", _roll("attention.qkv.weight", 16)),
    "bias of qkv doubled": ("qwen2", _double("attention.qkv.bias")),
    "one norm doubled": ("llama", _double("post_layernorm.weight")),
    "experts rotated": ("mixtral", _roll("mlp.proj.weight", 1)),
    "router rotated": ("mixtral", _roll("mlp.router.weight", 1)),
    "shared expert's gate doubled": ("qwen2-moe", _double("shared_expert_gate.weight")),
    "one rank's proj doubled": ("gpt2", _double("mlp.proj.weight")),
    "bias of dense doubled": ("gpt2", _double("attention.dense.bias")),
    "bias of proj doubled": ("gptj", _double("mlp.proj.bias")),
    "output matrix read the wrong way": ("llama", _transpose),
}


def _differs(case: str, ranks: list[Rank]) -> bool:
    _, expected = tensors_of(case)
    config = CASES[case].config
    found = logits(config_of(config, len(ranks)), ranks, TOKENS, [kind.window for kind in config.layer_kinds])
    return float(np.abs(found - expected).max()) > 1e-2 * float(np.abs(expected).max())


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_of_the_files_changes_the_logits(name: str) -> None:
    case, mutate = MUTATIONS[name]
    ranks = ranks_of(CASES[case].config, tensors_of(case)[0], 2)
    assert not _differs(case, ranks)
    mutate(ranks[0])
    assert _differs(case, ranks)


def test_a_plain_slice_of_the_joined_halves_changes_the_logits() -> None:
    """[up ; gate] must be cut half by half: rank 0 of a plain cut would hold all of up and nothing of gate."""
    for case in ("phi3", "mixtral"):
        ranks = ranks_of(CASES[case].config, tensors_of(case)[0], 2)
        whole = ranks_of(CASES[case].config, tensors_of(case)[0], 1)[0][LAYER + "mlp.fc.weight"]
        for rank, part in zip(ranks, np.split(whole, 2, whole.ndim - 2), strict=True):
            assert rank[LAYER + "mlp.fc.weight"].shape == part.shape
            rank[LAYER + "mlp.fc.weight"] = part
        assert _differs(case, ranks)


def test_kv_heads_on_the_wrong_ranks_change_the_logits() -> None:
    """8 query heads, 2 kv heads, 4 ranks: copies that alternate instead of standing side by side."""
    ranks = ranks_of(CASES["llama"].config, tensors_of("llama")[0], 4)
    kv = [rank[LAYER + "attention.qkv.weight"][2 * DIM :] for rank in ranks]
    for r, rank in enumerate(ranks):
        own = rank[LAYER + "attention.qkv.weight"]
        rank[LAYER + "attention.qkv.weight"] = np.concatenate([own[: 2 * DIM], kv[(0, 2, 0, 2)[r]]])
    assert _differs("llama", ranks)


def test_the_bias_of_one_sum_on_every_rank_changes_the_logits() -> None:
    """GPT-J sums attention and mlp at once, and each rank adds its bias before that."""
    ranks = ranks_of(CASES["gptj"].config, tensors_of("gptj")[0], 2)
    ranks[1][LAYER + "mlp.proj.bias"] = ranks[0][LAYER + "mlp.proj.bias"]
    assert _differs("gptj", ranks)


def test_a_copy_that_differs_between_ranks_changes_the_logits() -> None:
    ranks = ranks_of(CASES["llama"].config, tensors_of("llama")[0], 2)
    ranks[1]["transformer.vocab_embedding.weight"] = np.roll(ranks[1]["transformer.vocab_embedding.weight"], 1, 0)
    assert _differs("llama", ranks)
