"""The fixtures of published checkpoints are what was published."""

from __future__ import annotations

import hashlib
import json

import pytest

import recipes
from compiler.model.read import stored_dtype
from tests import published


@pytest.mark.parametrize("name", published.SOURCES)
def test_a_config_is_its_file_and_the_file_is_unchanged(name: str) -> None:
    raw = (published.FOLDER / f"{name}.json").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == published.SOURCES[name]["sha256"]
    assert published.CONFIGS[name] == json.loads(raw)


def test_every_file_has_a_source_and_every_config_its_parameters() -> None:
    files = {path.stem for path in published.FOLDER.glob("*.json")} - {"sources", "derived"}
    assert files == set(published.SOURCES) == set(published.PARAMETERS)


@pytest.mark.parametrize("name", ["llama2-7b", "llama2-13b", "llama2-70b"])
def test_llama_2_as_published_names_no_rope_theta(name: str) -> None:
    assert "rope_theta" not in published.CONFIGS[name]
    assert published.SOURCES[name]["found"]
    hf = published.CONFIGS[name]
    config = recipes.for_config(hf)[1].model_config(hf, None, stored_dtype(published.headers(name)))
    assert (config.rope_theta, config.dtype) == (10000.0, "float16")


def test_qwen_1_as_published_names_no_dtype_and_has_that_of_its_weights() -> None:
    hf = published.CONFIGS["qwen-7b"]
    assert not {"dtype", "torch_dtype"} & set(hf)
    config = recipes.for_config(hf)[1].model_config(hf, None, stored_dtype(published.headers("qwen-7b")))
    assert config.dtype == "bfloat16"
