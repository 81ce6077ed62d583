from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

import recipes
from compiler import targets
from compiler.errors import ArtifactError, TokenizerError
from compiler.model.rope import RopeScaling
from compiler.numerics.reference import TOKENS, read_reference, reference_logits, token_ids, write_reference
from compiler.pipeline.plan import Plan, make_plan
from compiler.pipeline.request import Ask
from compiler.storage.checkpoints.checkpoint import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def planned(folder: Path, ask: Ask | None = None) -> tuple[Plan, Checkpoint]:
    checkpoint = open_checkpoint(folder)
    name, recipe = recipes.for_config(checkpoint.config)
    target = targets.load("inductor")
    plan = make_plan(name, recipe, target, checkpoint.config, checkpoint.tensors, ask or Ask())
    return plan, checkpoint


@pytest.mark.parametrize("case", ["llama/tied", "mistral", "mixtral/window", "qwen2/window"])
def test_the_decoder_stands_in_where_transformers_does_not_fit(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    plan, checkpoint = planned(tiny_checkpoint(case))
    ids = token_ids(None, plan.config.vocab, plan.limits.max_positions)
    who, expected = reference_logits(plan.config, plan.account.tensors, checkpoint, ids)
    monkeypatch.setattr("compiler.numerics.reference.available_memory", lambda: 1000)
    other, found = reference_logits(plan.config, plan.account.tensors, checkpoint, ids)
    assert (who, other) == ("transformers", "decoder")
    assert expected.shape == found.shape == (TOKENS, plan.config.vocab)
    assert np.abs(expected - found).max() < 1e-4


def test_an_architecture_that_transformers_does_not_know(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of", "auto_map": code}))
    (folder / "evil.py").write_text("raise SystemExit('remote code ran')")
    plan, checkpoint = planned(folder)
    assert reference_logits(plan.config, plan.account.tensors, checkpoint, np.arange(5))[0] == "decoder"


@pytest.mark.parametrize(
    "scaling", [RopeScaling("linear", 2.0), RopeScaling("llama3", 8.0, 1.0, 4.0, 32)], ids=["linear", "llama3"]
)
def test_rope_scaling_that_the_user_asks_for_reaches_the_reference(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, scaling: RopeScaling
) -> None:
    plan, checkpoint = planned(tiny_checkpoint("llama"), Ask(rope_scaling=scaling))
    plain, _ = planned(tiny_checkpoint("llama"))
    ids = token_ids(None, plan.config.vocab, plan.limits.max_positions)
    _, scaled = reference_logits(plan.config, plan.account.tensors, checkpoint, ids)
    _, unscaled = reference_logits(plain.config, plain.account.tensors, checkpoint, ids)
    monkeypatch.setattr("compiler.numerics.reference.available_memory", lambda: 0)
    _, by_decoder = reference_logits(plan.config, plan.account.tensors, checkpoint, ids)
    assert np.abs(scaled - by_decoder).max() < 1e-4
    assert np.abs(scaled - unscaled).max() > 0.1


def test_token_ids_come_from_text_where_there_is_a_tokenizer(tiny_checkpoint: Callable[[str], Path]) -> None:
    ids = token_ids(tiny_checkpoint("llama"), 259, 256)
    assert bytes(ids[1:12].tolist()) == b"The harbour"
    assert len(ids) == TOKENS


def test_token_ids_fit_positions_and_vocabulary(tiny_checkpoint: Callable[[str], Path]) -> None:
    assert len(token_ids(None, 10, 20)) == 19
    assert token_ids(None, 10, 256).max() < 10
    # A tokenizer with more tokens than the model has rows would index outside the embedding.
    assert token_ids(tiny_checkpoint("llama"), 100, 256).max() < 100


def test_a_broken_tokenizer_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="cannot be read"):
        token_ids(tmp_path, 100, 100)


def test_reference_files(tmp_path: Path) -> None:
    ids, logits = np.arange(3), np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    write_reference(tmp_path / "r", ids, logits)
    found_ids, found = read_reference(tmp_path / "r")
    assert (found_ids == ids).all()
    assert (found == logits).all()
    (tmp_path / "r").write_bytes(b"\x07")
    with pytest.raises(ArtifactError, match="no reference logits"):
        read_reference(tmp_path / "r")
