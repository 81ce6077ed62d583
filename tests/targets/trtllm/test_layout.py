"""Names, shapes and places of the rank files, written out from the documentation; and every bit comes back."""

from __future__ import annotations

import numpy as np
import pytest

import recipes
from compiler.errors import ParallelError
from compiler.model.account import account
from compiler.model.lazy import RankPlan, read, whole
from compiler.model.roles import TensorId
from compiler.targets.trtllm.layout import layouts, rank_plans
from compiler.targets.trtllm.options import PLAIN, TrtllmOptions
from tests import published
from tests.targets.trtllm.models import CASES, tensors_of
from tests.targets.trtllm.ranks import config_of, ranks_of


def _published(name: str, tp: int, options: TrtllmOptions = PLAIN) -> list[RankPlan]:
    hf = published.CONFIGS[name]
    _, recipe = recipes.for_config(hf)
    config = recipe.model_config(hf)
    return rank_plans(config, tp, account(recipe, config, published.headers(name)).tensors, "BF16", options)


def _shapes(plan: RankPlan) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in plan.tensors}


def test_mixtral_at_tp_8() -> None:
    plans = _published("mixtral-8x7b", 8)
    found = _shapes(plans[5])
    layer = "transformer.layers.31."
    assert {key: value for key, value in found.items() if key.startswith(layer) or "layers" not in key} == {
        "transformer.vocab_embedding.weight": ("BF16", (32000, 4096)),
        f"{layer}input_layernorm.weight": ("BF16", (4096,)),
        f"{layer}attention.qkv.weight": ("BF16", (4 * 128 + 2 * 128, 4096)),
        f"{layer}attention.dense.weight": ("BF16", (4096, 4 * 128)),
        f"{layer}post_layernorm.weight": ("BF16", (4096,)),
        f"{layer}mlp.router.weight": ("F32", (8, 4096)),
        f"{layer}mlp.fc.weight": ("BF16", (8, 2 * 1792, 4096)),
        f"{layer}mlp.proj.weight": ("BF16", (8, 4096, 1792)),
        "transformer.ln_f.weight": ("BF16", (4096,)),
        "lm_head.weight": ("BF16", (4000, 4096)),
    }
    assert len(found) == 32 * 7 + 3


def test_mixtral_with_its_experts_dealt_out() -> None:
    plans = _published("mixtral-8x7b", 8, TrtllmOptions(moe_ep=4))
    found = _shapes(plans[5])
    assert found["transformer.layers.0.mlp.fc.weight"] == ("BF16", (2, 2 * 7168, 4096))
    fc = dict(plans[5].tensors)["transformer.layers.0.mlp.fc.weight"]
    # Rank 5 is moe_tp_rank 1, moe_ep_rank 1: the second halves of experts 2 and 3; up (w3) before gate (w1).
    sources = [piece.source.removeprefix("model.layers.0.block_sparse_moe.experts.") for piece in fc.pieces]
    assert sources == ["2.w3.weight", "3.w3.weight", "2.w1.weight", "3.w1.weight"]
    assert {piece.start for piece in fc.pieces} == {7168 * 4096}


def test_stages_of_a_pipeline_count_their_layers_from_zero() -> None:
    plans = _published("llama2-70b", 4, TrtllmOptions(pp=2))
    first, last = _shapes(plans[3]), _shapes(plans[4])
    assert "transformer.vocab_embedding.weight" in first
    assert "lm_head.weight" not in first
    assert "transformer.vocab_embedding.weight" not in last
    assert {"lm_head.weight", "transformer.ln_f.weight"} <= set(last)
    assert max(int(name.split(".")[2]) for name in last if ".layers." in name) == 39
    qkv = dict(plans[4].tensors)["transformer.layers.0.attention.qkv.weight"]
    assert {piece.source.split(".")[2] for piece in qkv.pieces} == {"40"}


def test_a_tied_head_is_written_out_and_padded() -> None:
    (plan,) = [p for p in _published("qwen2-0.5b", 2) if p.file == "rank1.safetensors"]
    assert _shapes(plan)["lm_head.weight"] == ("BF16", (151936 // 2, 896))
    config = CASES["gpt2"].config  # 37 tokens
    last = ranks_of(config, tensors_of("gpt2")[0], 8)[7]["lm_head.weight"]
    embedding = tensors_of("gpt2")[0][TensorId("embed")]
    np.testing.assert_array_equal(last, np.concatenate([embedding[35:], np.zeros((3, 64), np.float32)]))


def test_old_versions_have_their_own_names() -> None:
    old = _shapes(_published("mixtral-8x7b", 8, TrtllmOptions(version="0.9.0"))[0])
    assert old["transformer.layers.0.mlp.experts_weight_1"] == ("BF16", (8, 3584, 4096))
    assert old["transformer.layers.0.mlp.experts_weight_2"] == ("BF16", (8, 4096, 1792))
    assert "transformer.layers.0.mlp.fc.weight" not in old
    config, tensors = CASES["qwen2-moe"].config, tensors_of("qwen2-moe")[0]
    for version, place in (("0.12.0", "shared_expert"), ("0.13.0", "mlp.shared_expert")):
        (names,) = ranks_of(config, tensors, 1, TrtllmOptions(version=version))
        assert {n.partition("layers.0.")[2] for n in names if "layers.0." in n and "shared" in n} == {
            f"{place}.fc.weight", f"{place}.proj.weight", f"{place}_gate.weight",
        }  # fmt: skip


def test_biases_of_row_parallel_products() -> None:
    for case, on_second in (("gpt2", 1), ("gptj", 0)):
        config, tensors = CASES[case].config, tensors_of(case)[0]
        ranks = ranks_of(config, tensors, 2)
        bias = tensors[TensorId("mlp.down", "bias", 0)]
        for rank, factor in zip(ranks, (1, on_second), strict=True):
            np.testing.assert_array_equal(rank["transformer.layers.0.mlp.proj.bias"], bias * factor)


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("name", CASES)
def test_every_bit_comes_back_from_the_ranks(name: str, tp: int) -> None:
    """Canonical -> ranks -> canonical through the inverses: folds are values, not layout, and stay out of it."""
    config, tensors = CASES[name].config, tensors_of(name)[0]
    options = TrtllmOptions(version="0.21.0")
    source = {str(t): array.ravel().view("u4") for t, array in tensors.items()}
    lazies = {t: whole(str(t), array.shape, "F32") for t, array in tensors.items()}
    found: dict[TensorId, np.ndarray] = {}
    for layout in layouts(config, tp, options):
        shards = {str(r): read(lazy, source.__getitem__) for r, lazy in enumerate(layout.to_ranks(lazies))}
        back = layout.from_ranks([whole(name, shard.shape, "F32") for name, shard in shards.items()])
        flat = {name: shard.ravel() for name, shard in shards.items()}
        found |= {t: read(lazy, flat.__getitem__) for t, lazy in back.items()}
    assert set(found) == set(tensors)
    for t, bits in found.items():
        np.testing.assert_array_equal(bits.view("f4"), tensors[t], err_msg=str(t))


@pytest.mark.parametrize(
    ("name", "tp", "options", "words"),
    [
        ("llama", 3, PLAIN, "8 query heads"),
        ("llama", 2, TrtllmOptions(pp=3), "2 layers do not divide by pp 3"),
        ("mixtral", 4, TrtllmOptions(moe_ep=3), "moe_ep 3 does not divide tp 4"),
    ],
)
def test_ranks_that_cannot_share_the_model_are_refused(name: str, tp: int, options: TrtllmOptions, words: str) -> None:
    with pytest.raises(ParallelError, match=words):
        layouts(CASES[name].config, tp, options)


def test_config_says_what_the_files_hold() -> None:
    content = config_of(CASES["gpt2"].config, 8)
    assert content["vocab_size"] == 37
    assert content["mapping"] == {"world_size": 8, "tp_size": 8, "pp_size": 1}
