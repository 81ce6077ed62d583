"""A compiled artifact in real processes: the answers of transformers, however prompts are put together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from compiler.errors import ArtifactError, IncompatibleError
from compiler.runtime.generate import Model, load
from compiler.runtime.params import Completion, GenerationParams

PROMPTS = ["x", "a prompt that is longer than one chunk of prefill could be if it were short", "sixteen letters!"]
CASE, TP = "mixtral", 2


@pytest.fixture(scope="module")
def artifact(tiny_artifact: Callable[[str, int], Path]) -> Path:
    return tiny_artifact(CASE, TP)


@pytest.fixture(scope="module")
def model(artifact: Path) -> Iterator[Model]:
    with load(artifact) as loaded:
        yield loaded


def _ids(completion: Completion) -> list[int]:
    return [token.id for token in completion.tokens]


def test_logits_and_greedy_answers_are_those_of_transformers(
    model: Model, tiny_checkpoint: Callable[[str], Path]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(CASE), dtype=torch.float32)
    completions = model.generate(PROMPTS, GenerationParams(max_new_tokens=16))
    for prompt, completion in zip(map(model.encode, PROMPTS), completions, strict=True):
        ids = prompt + _ids(completion)
        with torch.no_grad():
            logits = reference(torch.tensor([ids])).logits[0]
        expected = logits[len(prompt) - 1 : -1].log_softmax(-1)
        assert _ids(completion) == expected.argmax(-1).tolist()
        assert [token.log_prob for token in completion.tokens] == pytest.approx(expected.amax(-1).tolist(), abs=1e-4)
        for decode_from in (None, len(prompt)):
            assert np.abs(model.logits(ids, decode_from=decode_from) - logits.numpy()).max() < 1e-4


@pytest.mark.parametrize(
    "params",
    [GenerationParams(max_new_tokens=10), GenerationParams(max_new_tokens=10, temperature=0.8, top_p=0.9, seed=4)],
    ids=["greedy", "sampled"],
)
def test_rows_streams_and_batches_agree(model: Model, params: GenerationParams) -> None:
    together = model.generate(PROMPTS, params)
    for prompt, completion in zip(PROMPTS, together, strict=True):
        pieces = list(model.stream(prompt, params))
        assert [piece.token.id for piece in pieces] == _ids(completion)
        assert "".join(piece.text for piece in pieces) == completion.text


def test_an_artifact_that_does_not_fit_or_is_damaged_starts_no_process(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr("compiler.runtime.ranks.subprocess.Popen", lambda *args, **_: started.append(args))
    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    (copy / "manifest.json").chmod(0o644)

    other_torch = {**manifest, "toolchain": {**manifest["toolchain"], "torch": "1.13.1"}}
    (copy / "manifest.json").write_text(json.dumps(other_torch))
    with pytest.raises(IncompatibleError, match=r"built with torch 1\.13\.1"):
        load(copy)

    (copy / "manifest.json").write_text(json.dumps(manifest))
    weights = copy / "weights" / "rank1.safetensors"
    weights.chmod(0o644)
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(ArtifactError, match=r"rank1\.safetensors: expected sha256"):
        load(copy, full_check=True)
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"rank1\.safetensors: missing"):
        load(copy)
    assert started == []
