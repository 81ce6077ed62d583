from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compiler.errors import ArtifactError
from compiler.runtime.weights import Weights
from compiler.storage.checkpoints.header import read_header


@pytest.fixture
def file(tmp_path: Path) -> Path:
    dtypes = (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )  # fmt: skip
    tensors = {str(dtype): torch.arange(24).reshape(2, 3, 4).to(dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4), "long": torch.ones(1 << 20)}
    save_file(tensors, tmp_path / "rank0.safetensors")
    return tmp_path / "rank0.safetensors"


def test_the_tensors_of_the_file(file: Path) -> None:
    found, expected = Weights(file).tensors("cpu"), load_file(file)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def _resident(file: Path) -> int:
    """Bytes of `file` that are mapped into this process with their pages there."""
    smaps = Path("/proc/self/smaps").read_text()
    return sum(
        1024 * int(kib) for kib in re.findall(rf" {re.escape(str(file))}\nSize:.*?\nRss: +(\d+) kB", smaps, re.DOTALL)
    )


def test_read_ahead_maps_every_page_and_copies_none(file: Path) -> None:
    weights = Weights(file)
    assert _resident(file) < file.stat().st_size // 2
    thread = weights.read_ahead()
    assert thread is not None
    thread.join(60)
    assert _resident(file) >= file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(read_header(file)["long"].offset)
        opened.write(torch.tensor(7.0).numpy().tobytes())
    assert weights.tensors("cpu")["long"][0] == 7, "a view of the file, not a copy"


@pytest.mark.parametrize("tied", [False, True])
def test_a_table_of_rows_is_read_ahead_only_where_it_is_the_head_too(tmp_path: Path, tied: bool) -> None:
    one = torch.ones(1 << 20)
    tensors = {"embed.weight": one, "layers.0.mlp.down.weight": one.clone()}
    tensors |= {} if tied else {"head.weight": one.clone()}
    file = tmp_path / "rank0.safetensors"
    save_file(tensors, file)
    weights = Weights(file)
    thread = weights.read_ahead()
    assert thread is not None
    thread.join(60)
    used = file.stat().st_size - (0 if tied else one.nbytes)
    assert used <= _resident(file) < used + one.nbytes // 2, "and pages around a fault"


def test_weights_that_take_most_of_the_memory_are_not_read_ahead(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda _: 1)
    assert Weights(file).read_ahead() is None


@pytest.mark.parametrize("damage", ["gone", "cut", "no safetensors"])
def test_files_that_are_none(file: Path, damage: str) -> None:
    content = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(content[:-1] if damage == "cut" else b"no safetensors")
    with pytest.raises(ArtifactError, match="no file of a rank") as caught:
        Weights(file)
    assert caught.value.hint
