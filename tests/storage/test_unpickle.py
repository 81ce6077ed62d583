from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compiler.errors import CheckpointError
from compiler.storage.checkpoints.checkpoint import open_checkpoint


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shared = torch.randn(6, 4)
    return {
        "w": torch.randn(5, 3).to(torch.bfloat16),
        "transposed": torch.randn(4, 6).t(),
        "row": shared[2],
        "tied": shared,
        "mask": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "fp8": torch.randn(3).to(torch.float8_e4m3fn),
    }


def folder_with(path: Path, files: dict[str, object], **options: bool) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    for name, state in files.items():
        torch.save(state, path / name, **options)
    return path


def read(folder: Path, scratch: Path) -> dict[str, torch.Tensor]:
    opened = open_checkpoint(folder, scratch)
    tensors: dict[str, torch.Tensor] = {}
    for file in opened.files:
        tensors |= load_file(file)
    return tensors


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_file(tmp_path: Path, state: dict[str, torch.Tensor], zipped: bool) -> None:
    if not zipped:
        del state["fp8"]  # younger than that format
    folder = folder_with(tmp_path / "m", {"pytorch_model.bin": state}, _use_new_zipfile_serialization=zipped)
    tensors = read(folder, tmp_path / "scratch")
    assert tensors.keys() == state.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == state[name].dtype
        assert tensor.shape == state[name].shape
        assert torch.equal(tensor.flatten().view(torch.uint8), state[name].flatten().view(torch.uint8)), name


def test_pickled_shards_by_index(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    names = sorted(state)
    files = {f"pytorch_model-{i}-of-2.bin": {n: state[n] for n in names[i::2]} for i in range(2)}
    folder = folder_with(tmp_path / "m", {**files})
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert read(folder, tmp_path / "scratch").keys() == state.keys()
    (folder / "pytorch_model-1-of-2.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lacks pytorch_model-1-of-2.bin"):
        open_checkpoint(folder, tmp_path / "scratch")


def test_rewritten_once_and_again_when_the_file_changes(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    folder = folder_with(tmp_path / "m", {"pytorch_model.bin": state})
    first = open_checkpoint(folder, tmp_path / "scratch").files[0]
    inode = first.stat().st_ino
    assert open_checkpoint(folder, tmp_path / "scratch").files[0].stat().st_ino == inode
    torch.save({"w": torch.zeros(3)}, folder / "pytorch_model.bin")
    assert set(open_checkpoint(folder, tmp_path / "scratch").tensors) == {"w"}


def test_a_damaged_rewrite_is_made_again(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    folder = folder_with(tmp_path / "m", {"pytorch_model.bin": state})
    file = open_checkpoint(folder, tmp_path / "scratch").files[0]
    file.write_bytes(file.read_bytes()[:-1])
    assert set(open_checkpoint(folder, tmp_path / "scratch").tensors) == set(state)


class Payload:
    """Object of a hostile file: unpickling it calls a function."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    folder = folder_with(tmp_path / "m", {"pytorch_model.bin": {"w": Payload(marker)}})
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        open_checkpoint(folder, tmp_path / "scratch")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "found", "hint"),
    [
        ([torch.zeros(1)], "list", "save_pretrained"),
        ({"step": 3}, "`step`: int", "without the optimizer's state"),
        (
            {"epoch": 1, "state_dict": {"w": torch.zeros(1)}, "optimizer": {}},
            "such a map under `state_dict`, beside `epoch`, `optimizer`",
            "save that map by itself",
        ),
    ],
)
def test_not_a_map_of_tensors(tmp_path: Path, content: object, found: str, hint: str) -> None:
    folder = folder_with(tmp_path / "m", {"pytorch_model.bin": content})
    with pytest.raises(CheckpointError, match=f"expected a map from names to tensors, found {found}") as caught:
        open_checkpoint(folder, tmp_path / "scratch")
    assert hint in caught.value.hint


def test_a_truncated_file(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    folder = folder_with(tmp_path / "m", {"pytorch_model.bin": state})
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="cannot be read as a torch file"):
        open_checkpoint(folder, tmp_path / "scratch")


def test_without_a_place_to_rewrite(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    folder = folder_with(tmp_path / "m", {"pytorch_model.bin": state})
    with pytest.raises(CheckpointError, match=r"only as pytorch_model.bin"):
        open_checkpoint(folder)
