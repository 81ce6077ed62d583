"""Rank files, read by TensorRT-LLM's names and semantics, give the logits of transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compiler.errors import ArtifactError
from compiler.targets import PLAIN, TargetOptions
from compiler.targets.trtllm.judge import logits
from tests.targets.trtllm.models import CASES, TOKENS, tensors_of
from tests.targets.trtllm.ranks import config_of, ranks_of

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
        ("llama", 2, TargetOptions(pp=2)),
        ("llama-tied", 4, TargetOptions(pp=2, parallel_embedding=True)),
        ("gpt2", 2, TargetOptions(pp=2)),
        ("gpt2", 4, TargetOptions(parallel_embedding=True)),
        ("mixtral", 2, TargetOptions(pp=2, moe_ep=2)),
        ("mixtral", 4, TargetOptions(moe_ep=2)),
        ("mixtral", 4, TargetOptions(moe_ep=4)),
        ("mixtral", 4, TargetOptions(moe_ep=4, version="0.9.0")),
        ("mixtral", 2, TargetOptions(version="0.8.0")),
        ("mixtral", 2, TargetOptions(version="0.10.0")),
        ("qwen2-moe", 4, TargetOptions(moe_ep=2, version="0.21.0")),
        ("qwen2-moe", 2, TargetOptions(version="0.10.0")),
        ("starcoder", 2, TargetOptions(version="0.9.0")),
    ],
)
def test_other_ways_to_split_and_older_names_give_the_same_logits(name: str, tp: int, options: TargetOptions) -> None:
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
    with pytest.raises(ArtifactError, match=r"asks for alibi_slopes \(rank 0\)"):
        logits(content, [{**rank, "alibi_slopes": rank[name]}], TOKENS)
    with pytest.raises(ArtifactError, match="2 ranks"):
        logits(config_of(config, 2), [rank], TOKENS)
