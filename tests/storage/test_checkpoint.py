from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler.errors import CheckpointError
from compiler.storage.checkpoints.checkpoint import from_headers, open_checkpoint
from tests.storage import samples

TENSORS: samples.Tensors = {
    "embed": ("BF16", (8, 4)),
    "norm": ("F32", (4,)),
    "head": ("BF16", (8, 4)),
    "scale": ("F32", ()),
}


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_is_where_it_says(tmp_path: Path, shards: int) -> None:
    data = samples.checkpoint(tmp_path, TENSORS, shards)
    opened = open_checkpoint(tmp_path)
    assert opened.config == {"architectures": ["LlamaForCausalLM"]}
    assert {name: (t.dtype, t.shape) for name, t in opened.tensors.items()} == TENSORS
    assert len(opened.files) == shards
    assert opened.nbytes == sum(map(len, data.values()))
    for name, tensor in opened.tensors.items():
        assert tensor.file is not None
        assert tensor.file.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes] == data[name]


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    samples.checkpoint(tmp_path, TENSORS, shards=4)
    shard = [tmp_path / f"model-{i:05}-of-00004.safetensors" for i in range(1, 5)]
    shard[0].unlink()
    shard[1].write_bytes(shard[1].read_bytes()[:-1])
    samples.safetensors(shard[3], {"head": ("BF16", (8, 4)), "other": ("F32", (1,))})
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    lines = caught.value.message.splitlines()
    assert lines[0].startswith("4 problems")
    assert "model-00001-of-00004.safetensors: missing" in lines[1]
    assert "model-00002-of-00004.safetensors: truncated" in lines[2]
    assert "`head` is in both model-00003" in lines[3]
    assert "puts `scale` into model-00004" in lines[4]
    assert caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("config", "expected"),
    [(None, "is missing"), ("{", "is not JSON"), ("[]", "expected a JSON object, found list")],
)
def test_config_missing_or_broken(tmp_path: Path, config: str | None, expected: str) -> None:
    samples.checkpoint(tmp_path, TENSORS)
    (tmp_path / "config.json").unlink()
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=expected):
        open_checkpoint(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no weights .* found config.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_map(tmp_path: Path, index: object) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="expected `weight_map`"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "sub/model.safetensors"])
def test_an_index_that_leaves_the_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(CheckpointError, match="outside the folder"):
        open_checkpoint(tmp_path)


def test_headers_alone() -> None:
    opened = from_headers({"hidden_size": 4}, {"a": ("BF16", (3, 4))})
    tensor = opened.tensors["a"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes, tensor.file) == ("BF16", (3, 4), 24, None)
    assert opened.files == ()
    with pytest.raises(CheckpointError, match="found F12"):
        from_headers({}, {"a": ("F12", (1,))})
