"""Checkpoints as models of transformers, without a second reading of their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from compiler.errors import SourceError
from compiler.numerics.foreign import (
    known_to_transformers,
    transformers_config,
    transformers_logits,
    transformers_model,
)
from compiler.storage.checkpoints.checkpoint import Checkpoint, open_checkpoint
from tests.cases import checkpoints
from tests.cases.checkpoints import ABSENT, write

if TYPE_CHECKING:
    from torch import Tensor

IDS = torch.arange(40, 70)[None]


def _logits(checkpoint: Checkpoint) -> Tensor:
    model = transformers_model(transformers_config(checkpoint.config), checkpoint)
    return torch.from_numpy(transformers_logits(model, IDS[0].numpy()))[None]


@pytest.mark.parametrize("case", ["llama/tied", "mixtral", "gpt2", "qwen2/window", "glm"])
def test_the_model_is_the_one_that_transformers_loads_from_the_folder(
    case: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    folder = tiny_checkpoint(case)
    assert torch.equal(_logits(open_checkpoint(folder)), checkpoints.transformers_logits(folder, IDS))


def test_bloom_as_published_without_a_prefix_and_with_the_class_without_a_head(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_checkpoint("bloom")
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    assert bare.keys() != tensors.keys()
    save_file(bare, tmp_path / "model.safetensors", metadata={"format": "pt"})
    hf = json.loads((folder / "config.json").read_text()) | {"architectures": ["BloomModel"]}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    assert known_to_transformers(hf)
    assert torch.equal(_logits(open_checkpoint(tmp_path)), checkpoints.transformers_logits(folder, IDS))


def test_files_beside_config_and_weights_are_not_read(tmp_path: Path) -> None:
    expected = _logits(open_checkpoint(write(tmp_path / "plain")))
    folder = write(tmp_path / "model")
    (folder / "generation_config.json").write_text("{,}")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "other/model"}))
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    assert torch.equal(_logits(open_checkpoint(folder)), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"return_dict": None},
        {"torchscript": True},
        {"sliding_window": 0},
        {"sliding_window": 8},
        {"layer_types": ["sliding_attention", "full_attention"]},
    ],
)
def test_keys_that_the_model_does_not_read_do_not_count(tmp_path: Path, changes: dict[str, Any]) -> None:
    expected = _logits(open_checkpoint(write(tmp_path / "plain")))
    assert torch.equal(_logits(open_checkpoint(write(tmp_path / "model", changes))), expected)


def test_an_address_that_is_not_aligned_is_copied(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    expected = _logits(open_checkpoint(folder))
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    shifted = (length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :]
    (folder / "model.safetensors").write_bytes(shifted)
    assert torch.equal(_logits(open_checkpoint(folder)), expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "swish9"}, "transformers .* cannot load the checkpoint: .*swish9"),
        ({"num_attention_heads": "eight"}, "transformers .* cannot read config.json: .*num_attention_heads"),
        ({"intermediate_size": 95}, "transformers .* cannot load the checkpoint: .*"),
        (
            {"partial_rotary_factor": 0.5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "transformers .* cannot compute the model of config.json: RuntimeError: The size of tensor",
        ),
    ],
)
def test_a_config_that_transformers_cannot_read_is_an_error_of_the_source(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    checkpoint = open_checkpoint(write(tmp_path / "model"))
    other = Checkpoint(checkpoint.folder, checkpoint.config | changes, checkpoint.tensors)
    with pytest.raises(SourceError, match=said):
        _logits(other)


def test_a_weight_that_no_tensor_fills_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", tensors={"model.layers.1.mlp.up_proj.weight": ABSENT})
    with pytest.raises(SourceError, match=r"no tensor for 1 weights of LlamaForCausalLM: model\.layers\.1\.mlp\.up_pr"):
        _logits(open_checkpoint(folder))


@pytest.mark.parametrize(
    ("hf", "known"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, True),
        ({"model_type": "llama"}, True),
        ({"model_type": "llama", "architectures": None}, True),
        ({"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "model.Own"}}, False),
        ({"model_type": "llama", "architectures": ["OwnForCausalLM"]}, False),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "quantization_config": {}}, False),
        ({"model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"]}, False),
        ({}, False),
    ],
)
def test_a_model_is_known_by_its_type_and_its_class(hf: dict[str, Any], known: bool) -> None:
    assert known_to_transformers(hf) is known
