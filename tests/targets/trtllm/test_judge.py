"""Rank files, read by TensorRT-LLM's names and semantics, give the logits of transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from compiler.errors import ArtifactError
from compiler.targets.trtllm.judge_math import Array
from compiler.targets.trtllm.options import PLAIN, TrtllmOptions
from compiler.targets.trtllm.read import RankTensors
from tests.targets.trtllm.models import CASES, TOKENS, tensors_of
from tests.targets.trtllm.ranks import config_of, logits, ranks_of

FIRST = {"qwen3": "0.21.0"}
"""The versions of the cases that the default version has not."""


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("name", CASES)
def test_simulated_ranks_give_the_logits_of_transformers(name: str, tp: int) -> None:
    config = CASES[name].config
    tensors, expected = tensors_of(name)
    options = replace(PLAIN, version=FIRST.get(name, ""))
    found = logits(
        config_of(config, tp, options), ranks_of(config, tensors, tp, options), TOKENS,
        [kind.window for kind in config.layer_kinds],
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "tp", "options"),
    [
        ("llama", 2, TrtllmOptions(pp=2)),
        ("llama-tied", 4, TrtllmOptions(pp=2, parallel_embedding=True)),
        ("gpt2", 2, TrtllmOptions(pp=2)),
        ("gpt2", 4, TrtllmOptions(parallel_embedding=True)),
        ("mixtral", 2, TrtllmOptions(pp=2, moe_ep=2)),
        ("mixtral", 4, TrtllmOptions(moe_ep=2)),
        ("mixtral", 4, TrtllmOptions(moe_ep=4)),
        ("mixtral", 4, TrtllmOptions(moe_ep=4, version="0.9.0")),
        ("mixtral", 2, TrtllmOptions(version="0.8.0")),
        ("mixtral", 2, TrtllmOptions(version="0.10.0")),
        ("qwen2-moe", 4, TrtllmOptions(moe_ep=2, version="0.21.0")),
        ("qwen2-moe", 2, TrtllmOptions(version="0.10.0")),
        ("starcoder", 2, TrtllmOptions(version="0.9.0")),
    ],
)
def test_other_ways_to_split_and_older_names_give_the_same_logits(name: str, tp: int, options: TrtllmOptions) -> None:
    config = CASES[name].config
    tensors, expected = tensors_of(name)
    found = logits(config_of(config, tp, options), ranks_of(config, tensors, tp, options), TOKENS)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_a_missing_a_misshapen_and_a_superfluous_tensor_are_named() -> None:
    config = CASES["llama"].config
    (rank,) = ranks_of(config, tensors_of("llama")[0], 1)
    name = "transformer.layers.1.mlp.proj.weight"
    content = config_of(config, 1)
    without = {key: value for key, value in rank.items() if key != name}
    with pytest.raises(ArtifactError, match=f"no tensor `{name}`"):
        logits(content, [without], TOKENS)
    with pytest.raises(ArtifactError, match=f"`{name}`: the module's shape is .64, 96., found .96, 64."):
        logits(content, [{**rank, name: rank[name].T}], TOKENS)
    with pytest.raises(ArtifactError, match=r"reads alibi_slopes \(rank 0\)"):
        logits(content, [{**rank, "alibi_slopes": rank[name]}], TOKENS)
    with pytest.raises(ArtifactError, match="2 ranks"):
        logits(config_of(config, 2), [rank], TOKENS)


@pytest.mark.parametrize(("algo", "levels"), [("W8A16", 128), ("W4A16", 8)])
def test_weights_are_rounded_as_by_the_loader(algo: str, levels: int) -> None:
    """Plain weights under a weight-only name give the logits of weights rounded row by row, rank by rank."""
    config = CASES["mixtral"].config
    ranks = ranks_of(config, tensors_of("mixtral")[0], 2)
    content = config_of(config, 2)
    linear = ("qkv.weight", "dense.weight", "fc.weight", "proj.weight")

    def nearest(name: str, weight: Array) -> Array:
        if not name.endswith(linear):
            return weight
        scale = np.abs(weight).max(-1, keepdims=True) / levels
        return np.asarray(np.clip(np.round(weight / scale), -levels, levels - 1) * scale, np.float32)

    rounded = [{name: nearest(name, weight) for name, weight in rank.items()} for rank in ranks]
    found = logits({**content, "quantization": {"quant_algo": algo}}, ranks, TOKENS)
    plain = logits(content, ranks, TOKENS)
    np.testing.assert_allclose(found, logits(content, rounded, TOKENS), atol=1e-5 * np.abs(plain).max())
    assert np.abs(found - plain).max() > 1e-4 * np.abs(plain).max()


def test_a_small_ceiling_reads_in_more_blocks_and_gives_the_same(tmp_path: Path) -> None:
    config = CASES["mixtral"].config
    ranks = ranks_of(config, tensors_of("mixtral")[0], 2)
    for rank, tensors in enumerate(ranks):
        save_file(dict(tensors), tmp_path / f"rank{rank}.safetensors")
    files = [RankTensors(tmp_path / f"rank{rank}.safetensors") for rank in range(2)]
    expected = logits(config_of(config, 2), ranks, TOKENS)
    found = logits(config_of(config, 2), files, TOKENS, block=512)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
