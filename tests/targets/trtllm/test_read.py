"""The judge's own reader, against the library that writes the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compiler.errors import ArtifactError
from compiler.targets.trtllm.read import RankTensors


def test_every_dtype_comes_as_float32(tmp_path: Path) -> None:
    values = 20 * torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    dtypes = {"a": torch.float32, "b": torch.float16, "c": torch.bfloat16, "d": torch.int8, "e": torch.float8_e4m3fn}
    save_file({name: values.to(dtype) for name, dtype in dtypes.items()}, tmp_path / "rank0.safetensors")
    read = RankTensors(tmp_path / "rank0.safetensors")
    assert sorted(read) == ["a", "b", "c", "d", "e"]
    for name, dtype in dtypes.items():
        expected = values.to(dtype).float().numpy()
        assert read[name].shape == (3, 5)
        assert read[name][:].dtype == np.float32
        np.testing.assert_array_equal(read[name][:], expected)
        np.testing.assert_array_equal(read[name][1:9], expected[1:])
        np.testing.assert_array_equal(read[name][2], expected[2])


def test_one_matrix_of_a_stack_is_read_by_itself(tmp_path: Path) -> None:
    values = torch.arange(24.0).reshape(2, 3, 4)
    save_file({"a": values}, tmp_path / "rank0.safetensors")
    matrix = RankTensors(tmp_path / "rank0.safetensors")["a"][1]
    assert matrix.shape == (3, 4)
    np.testing.assert_array_equal(matrix[1:2], values[1, 1:2].numpy())


def test_an_unreadable_tensor_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.int64)}, tmp_path / "rank0.safetensors")
    with pytest.raises(ArtifactError, match="`a` is I64"):
        RankTensors(tmp_path / "rank0.safetensors")["a"]
