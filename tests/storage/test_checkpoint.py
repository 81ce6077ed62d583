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
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    lines = caught.value.message.splitlines()
    assert lines[0].startswith("2 problems")
    assert "model-00001-of-00004.safetensors: missing" in lines[1]
    assert "model-00002-of-00004.safetensors: truncated" in lines[2]
    assert caught.value.hint
    assert caught.value.exit_code == 3


def test_the_index_says_which_tensors_count(tmp_path: Path) -> None:
    """An overlay has the better copy, a shard a tensor that is not the model's, and the index one that nobody has."""
    samples.checkpoint(tmp_path, TENSORS, shards=2)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    last = tmp_path / index["scale"]
    both: samples.Tensors = {"norm": ("F32", (4,)), "head": ("BF16", (8, 4)), "other": ("F32", (1,))}
    data = samples.safetensors(last, both, seed=9)
    index["head"] = last.name
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    opened = open_checkpoint(tmp_path)
    assert set(opened.tensors) == {"embed", "norm", "head"}
    head = opened.tensors["head"]
    assert head.file == last
    assert last.read_bytes()[head.offset : head.offset + head.nbytes] == data["head"]
    assert opened.difference.absent == {"scale": last.name}
    assert opened.difference.unlisted == {"other": last.name}
    assert opened.difference.repeated == {"head": "model-00001-of-00002.safetensors"}
    assert "left out, since the index does not list them: 1 tensor(s) (other)" in opened.notes[0]
    assert "1 tensor(s) (head)" in opened.notes[1]


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_pointers_of_git_lfs_are_named(tmp_path: Path, form: str) -> None:
    samples.checkpoint(tmp_path, TENSORS)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / form).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 99\n")
    with pytest.raises(CheckpointError, match=f"1 file.* are git-lfs pointers.*: {form}") as caught:
        open_checkpoint(tmp_path, tmp_path / "scratch")
    assert "git lfs pull" in caught.value.hint


def test_links_of_a_cache_that_lost_its_files_are_named(tmp_path: Path) -> None:
    samples.checkpoint(tmp_path, TENSORS, shards=2)
    shard = tmp_path / "model-00001-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to("../blobs/gone")
    with pytest.raises(CheckpointError, match=r"missing \(a link to \.\./blobs/gone, which does not exist\)"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to("../blobs/gone too")
    with pytest.raises(CheckpointError, match=r"links to files that do not exist: config\.json, model-00001"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [(None, "no config.json in"), ("{", "is not JSON"), ("[]", "expected a JSON object, found list")],
)
def test_config_missing_or_broken(tmp_path: Path, config: str | None, expected: str) -> None:
    samples.checkpoint(tmp_path, TENSORS)
    (tmp_path / "config.json").unlink()
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=expected):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00002.safetensors"])
def test_a_folder_in_place_of_a_file_is_a_problem_of_the_checkpoint(tmp_path: Path, name: str) -> None:
    samples.checkpoint(tmp_path, TENSORS, shards=2)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=rf"no config\.json|{name}: cannot be read"):
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
