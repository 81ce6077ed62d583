from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import SourceError, UsageError
from compiler.storage.checkpoints.resolve import resolve
from compiler.storage.checkpoints.source import needed, weight_files
from tests.storage import samples

TENSORS: samples.Tensors = {"w": ("BF16", (2, 2))}


def test_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.checkpoint(tmp_path / "m", TENSORS)
    (tmp_path / "m" / "code.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spelling in (str(tmp_path / "m"), "m", "./m", "~/m"):
        found = resolve(spelling, cache=tmp_path / "cache")
        assert (found.folder, found.repo_id, found.commit) == (tmp_path / "m", None, None)
        assert set(found.checkpoint().tensors) == {"w"}


def test_a_folder_that_looks_like_a_hub_id_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.checkpoint(tmp_path / "org" / "model", TENSORS)
    monkeypatch.chdir(tmp_path)
    assert resolve("org/model", cache=tmp_path).folder == tmp_path / "org" / "model"


@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "../x", "~/nowhere", "org/model/"])
def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="no such folder") as caught:
        resolve(model, cache=tmp_path)
    assert "s3://" in caught.value.hint


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UsageError, match="is a file") as caught:
        resolve(str(tmp_path / "model.safetensors"), cache=tmp_path)
    assert str(tmp_path) in caught.value.hint


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a folder nor a known model") as caught:
        resolve("mixtrall", cache=tmp_path, known=["mixtral", "llama2-70b"])
    assert "did you mean `mixtral`?" in caught.value.hint
    assert "owner/name" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        resolve("zzz", cache=tmp_path, known=["mixtral"])
    assert "did you mean" not in caught.value.hint


@pytest.mark.parametrize("model", [".", "s3://bucket/prefix"])
def test_a_revision_of_what_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="has no revisions"):
        resolve(model, "main", cache=tmp_path)


@pytest.mark.parametrize(
    ("weights", "listed", "taken"),
    [
        (["model.safetensors", "pytorch_model.bin"], [], ["model.safetensors"]),
        (
            ["model.safetensors.index.json", "a.safetensors", "b c", "model-00001-of-00002.safetensors"],
            ["a.safetensors", "b c"],
            ["a.safetensors", "b c", "model.safetensors.index.json"],
        ),
        (["pytorch_model.bin", "training_args.bin", "model.gguf"], [], ["pytorch_model.bin"]),
        (
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "rng_state.pth"],
            ["pytorch_model-00001-of-00002.bin"],
            ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"],
        ),
    ],
)
def test_one_form_of_the_weights(weights: list[str], listed: list[str], taken: list[str]) -> None:
    others = ["config.json", "qwen.tiktoken", "modeling.py", "sub/model.safetensors", "tf_model.h5"]
    names = [*weights, *others]
    found = weight_files(names, "there", lambda _: {f"tensor {i}": name for i, name in enumerate(listed)})
    assert needed(names, found) == tuple(sorted(["config.json", "qwen.tiktoken", *taken]))
    assert set(found.shards) == {name for name in taken if not name.endswith(".json")}
    assert found.pickled == any(name.endswith(".bin") for name in taken)


def test_files_that_the_index_names_and_nobody_has_are_problems() -> None:
    index = "model.safetensors.index.json"
    found = weight_files([index, "a"], "there", lambda _: {"x": "a", "y": "b", "z": "c"})
    assert (found.shards, found.missing) == (("a",), ("b", "c"))
    assert found.problems[0] == f"b: missing, {index} expects it"
