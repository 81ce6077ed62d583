"""Images with vLLM, by the names under which they are published."""

from __future__ import annotations

import pytest

from compiler.errors import UsageError
from compiler.targets.vllm.images import IMAGES, vllm_image
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.version import image_of, version_of

REGISTRY = "763104351884.dkr.ecr.us-west-2.amazonaws.com"


@pytest.mark.parametrize(
    ("image", "version", "dialect"),
    [
        ("djl-inference:0.36.0-lmi28.0.0-cu130", "0.26.0", "A"),
        (f"{REGISTRY}/djl-inference:0.36.0-lmi20.0.0-cu128", "0.15.1", "J"),
        ("lmi22", "0.17.0", "A"),
        ("0.38.0-lmi29.0.0-cu130", "0.28.0", "M"),
        ("vllm:server-sagemaker-cuda-v2.3", "0.27.0", "M"),
        (f"{REGISTRY}/vllm:0.27.1-gpu-py312-cu130-ubuntu22.04-sagemaker", "0.27.1", "M"),
        ("vllm/vllm-openai:v0.32.0", "0.32.0", "M"),
    ],
)
def test_a_name_gives_the_version_of_vllm_and_its_cache(image: str, version: str, dialect: str) -> None:
    found = vllm_image(image)
    assert (found.vllm, found.dialect) == (version, dialect)


def test_every_image_of_the_table_is_found_by_its_name() -> None:
    assert all(vllm_image(name) is image for name, image in IMAGES.items())
    assert {image.family for image in IMAGES.values()} == {"lmi", "sagemaker"}


@pytest.mark.parametrize("image", ["vllm-openai:latest", "djl-inference:0.30.0-tensorrtllm0.12.0-cu125", "lmi99", "x"])
def test_an_image_without_a_known_vllm_is_refused_with_examples(image: str) -> None:
    with pytest.raises(UsageError, match=r"vllm-openai:v0\.32\.0; found") as caught:
        vllm_image(image)
    assert caught.value.hint


def test_an_image_decides_the_version_and_contradicts_another() -> None:
    assert version_of(VllmOptions(image="lmi28")) == (0, 26, 0)
    assert version_of(VllmOptions()) == (0, 32, 0)
    assert image_of(VllmOptions(version="0.31.0")) is None
    with pytest.raises(UsageError, match=r"has vLLM 0\.26\.0; found `--vllm-version 0\.31\.0`"):
        version_of(VllmOptions(image="lmi28", version="0.31.0"))
