from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import recipes
from compiler import targets
from compiler.errors import ArtifactError, TokenizerError
from compiler.model.rope import RopeScaling
from compiler.numerics.compare import Figures
from compiler.numerics.foreign import transformers_model
from compiler.numerics.passages import TEXT, Expected, Passage, read_reference, token_rows, write_reference
from compiler.numerics.proof import Proof, proof_of
from compiler.numerics.reference import reference_logits, source_passages
from compiler.pipeline.plan import Plan, make_plan
from compiler.pipeline.request import Ask
from compiler.storage.checkpoints.checkpoint import Checkpoint, open_checkpoint
from tests.tiny import write_checkpoint
from tests.tiny_configs import ROPE_LLAMA3, YARN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def planned(folder: Path, ask: Ask | None = None) -> tuple[Plan, Checkpoint]:
    checkpoint = open_checkpoint(folder)
    name, recipe = recipes.for_config(checkpoint.config)
    target = targets.load("inductor")
    plan = make_plan(name, recipe, target, checkpoint.config, checkpoint.tensors, ask or Ask())
    return plan, checkpoint


def rows_of(plan: Plan, tokenizer: Path | None = None) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    proof = proof_of(plan.config, plan.limits.max_positions)
    return token_rows(tokenizer, plan.config.vocab, proof)


@pytest.mark.parametrize(
    "case", ["llama/tied", "mixtral", "gpt2", "qwen2/window", "gemma2", "gemma3", "bloom", "deepseek_v2", "phi", "glm"]
)
def test_beyond_the_ceiling_of_memory_weights_are_widened_one_by_one(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    plan, checkpoint = planned(tiny_checkpoint(case))
    rows, _ = rows_of(plan)
    model = (plan.config, plan.account.tensors, checkpoint, rows)
    expected = reference_logits(*model)
    loaded: list[str] = []

    def heard(config: Any, checkpoint: Checkpoint, dtype: str) -> Any:
        loaded.append(dtype)
        return transformers_model(config, checkpoint, dtype)

    monkeypatch.setattr("compiler.numerics.reference.transformers_model", heard)
    who, found = reference_logits(*model, max_memory=1000)
    # Some models compute constants in the dtype of their weights: these have to be float32 from the beginning.
    assert loaded == (["bfloat16", "float32"] if case in NOT_WIDENED else ["bfloat16"])
    assert who == "transformers"
    for one, own in zip(expected[1], found, strict=True):
        np.testing.assert_array_equal(one, own)


NOT_WIDENED = ("gemma2", "gemma3")


@pytest.mark.parametrize("case", ["llama/tied", "mistral", "mixtral/window", "qwen2/window", "llama/rope-llama3"])
def test_the_decoder_stands_in_where_transformers_does_not_fit(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    plan, checkpoint = planned(tiny_checkpoint(case))
    rows, _ = rows_of(plan)
    who, expected = reference_logits(plan.config, plan.account.tensors, checkpoint, rows)
    monkeypatch.setattr("compiler.numerics.reference.available_memory", lambda: 1000)
    other, found = reference_logits(plan.config, plan.account.tensors, checkpoint, rows)
    assert (who, other) == ("transformers", "decoder")
    for ids, one, own in zip(rows, expected, found, strict=True):
        assert one.shape == own.shape == (len(ids), plan.config.vocab)
        assert np.abs(one - own).max() < 1e-4


@pytest.mark.parametrize(
    ("case", "long"),
    [
        ("mistral", {"sliding_window": 400}),
        ("qwen2/window", {"sliding_window": 300}),
        ("gpt_oss", {"sliding_window": 300}),
        ("llama4", {"attention_chunk_size": 300, "floor_scale": 310}),
        (
            "deepseek_v3/yarn",
            {
                "rope_parameters": {
                    **YARN,
                    "mscale": 1.0,
                    "mscale_all_dim": 1.0,
                    "original_max_position_embeddings": 300,
                }
            },
        ),
        ("llama/rope-llama3", {"rope_parameters": {**ROPE_LLAMA3, "original_max_position_embeddings": 300}}),
    ],
)
def test_transformers_computes_the_lowered_limits_as_the_decoder_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, long: dict[str, Any]
) -> None:
    folder = write_checkpoint(case, tmp_path / "model", max_position_embeddings=512, **long)
    plan, checkpoint = planned(folder)
    proof = proof_of(plan.config, plan.limits.max_positions)
    assert proof.lowered is not None
    rows, lowered = rows_of(plan)
    who, expected = source_passages(plan.config, proof.lowered, plan.account.tensors, checkpoint, (rows, lowered))
    monkeypatch.setattr("compiler.numerics.reference.available_memory", lambda: 0)
    other, found = source_passages(plan.config, proof.lowered, plan.account.tensors, checkpoint, (rows, lowered))
    assert (who, other) == ("transformers", "decoder")
    assert expected.lowered is not None
    assert found.lowered is not None
    np.testing.assert_allclose(found.lowered.logits[0], expected.lowered.logits[0], atol=1e-4)
    # The same tokens without the lowered limits: what the rows are for.
    unlowered = reference_logits(plan.config, plan.account.tensors, checkpoint, lowered)[1][0]
    assert np.abs(unlowered[expected.lowered.compared[0]] - expected.lowered.logits[0]).max() > 0.1


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
    assert reference_logits(plan.config, plan.account.tensors, checkpoint, [np.arange(5)])[0] == "decoder"


@pytest.mark.parametrize(
    "scaling", [RopeScaling("linear", 2.0), RopeScaling("llama3", 8.0, 1.0, 4.0, 32)], ids=["linear", "llama3"]
)
def test_rope_scaling_that_the_user_asks_for_reaches_the_reference(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, scaling: RopeScaling
) -> None:
    plan, checkpoint = planned(tiny_checkpoint("llama"), Ask(rope_scaling=scaling))
    plain, _ = planned(tiny_checkpoint("llama"))
    (ids, _), _ = rows_of(plan)
    _, (scaled,) = reference_logits(plan.config, plan.account.tensors, checkpoint, [ids])
    _, (unscaled,) = reference_logits(plain.config, plain.account.tensors, checkpoint, [ids])
    monkeypatch.setattr("compiler.numerics.reference.available_memory", lambda: 0)
    _, (by_decoder,) = reference_logits(plan.config, plan.account.tensors, checkpoint, [ids])
    assert np.abs(scaled - by_decoder).max() < 1e-4
    assert np.abs(scaled - unscaled).max() > 0.1


def test_token_ids_come_from_text_where_there_is_a_tokenizer(tiny_checkpoint: Callable[[str], Path]) -> None:
    proof = Proof((160, 40), lowered_rows=(64,))
    (first, second), (lowered,) = token_rows(tiny_checkpoint("llama"), 259, proof)
    assert bytes(first[1:12].tolist()) == b"The harbour"
    assert (len(first), len(second)) == (160, 40)
    assert bytes(second.tolist()) in TEXT.encode()
    np.testing.assert_array_equal(lowered, first[:64])


def test_token_ids_fit_the_vocabulary(tiny_checkpoint: Callable[[str], Path]) -> None:
    ((ids,), _) = token_rows(None, 10, Proof((19,)))
    assert len(ids) == 19
    assert ids.max() < 10
    # A tokenizer with more tokens than the model has rows would index outside the embedding.
    (ids, _), _ = token_rows(tiny_checkpoint("llama"), 100, Proof((160, 40)))
    assert ids.max() < 100


def test_a_broken_tokenizer_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="cannot be read"):
        token_rows(tmp_path, 100, Proof((99,)))


def test_reference_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def passage(*lengths: int) -> Passage:
        rows = [rng.integers(0, 5, length) for length in lengths]
        return Passage.of(rows, [rng.standard_normal((length, 5)).astype(np.float32) for length in lengths])

    written = Expected(passage(40, 12, 1), passage(30), Figures(0.5, 0.1, 0.99, 0.9, 0.02, 0.01))
    write_reference(tmp_path / "r", written)
    found = read_reference(tmp_path / "r")
    assert found.floor == written.floor
    assert found.lowered is not None
    assert written.lowered is not None
    for one, other in ((written.straight, found.straight), (written.lowered, found.lowered)):
        for field in ("rows", "compared", "logits"):
            for a, b in zip(getattr(one, field), getattr(other, field), strict=True):
                np.testing.assert_array_equal(a, b)
    (tmp_path / "r").write_bytes(b"\x07")
    with pytest.raises(ArtifactError, match="no reference logits"):
        read_reference(tmp_path / "r")


def test_a_reference_of_an_earlier_version_is_one_row(tmp_path: Path) -> None:
    ids, logits = np.arange(48), np.random.default_rng(0).standard_normal((48, 5)).astype(np.float32)
    save_file({"token_ids": ids, "logits": logits}, tmp_path / "r")
    found = read_reference(tmp_path / "r")
    assert found.lowered is None
    np.testing.assert_array_equal(found.straight.rows[0], ids)
    np.testing.assert_array_equal(found.straight.compared[0], ids)
    np.testing.assert_array_equal(found.straight.logits[0], logits)
