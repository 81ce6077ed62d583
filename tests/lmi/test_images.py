from __future__ import annotations

import pytest

from compiler.errors import RefusedError, UsageError
from compiler.lmi.images import REFUSED, TRTLLM, image_for_trtllm, image_uri, parse_tag, trtllm_image


@pytest.mark.parametrize(
    ("image", "version", "family"),
    [
        ("0.25.0-tensorrtllm0.5.0-cu122", "0.5.0", "triton"),
        ("0.30.0-tensorrtllm0.12.0-cu125", "0.12.0", "triton"),
        ("763104351884.dkr.ecr.us-west-2.amazonaws.com/djl-inference:0.28.0-tensorrtllm0.9.0-cu122", "0.9.0", "triton"),
        ("registry:5000/djl-inference:0.29.0-dlc-tensorrtllm", "0.11.0", "triton"),
        ("0.33.0-tensorrtllm", "0.21.0", "engine"),
        ("deepjavalibrary/djl-serving:0.27.0-trtllm", "0.8.0", "triton"),
        ("0.32.0", "0.12.0", "triton"),
    ],
)
def test_what_an_image_carries(image: str, version: str, family: str) -> None:
    assert (trtllm_image(image).trtllm, trtllm_image(image).family) == (version, family)


def test_every_tag_of_the_table_names_its_own_row() -> None:
    for facts in TRTLLM.values():
        assert trtllm_image(facts.tag) == trtllm_image(facts.lmi) == facts


@pytest.mark.parametrize("release", REFUSED)
def test_releases_after_the_engines_are_refused_with_the_reason(release: tuple[int, int]) -> None:
    with pytest.raises(RefusedError, match=rf"found 0\.{release[1]}: its") as caught:
        trtllm_image(f"0.{release[1]}.0-tensorrtllm1.0.0-cu128")
    assert TRTLLM[0, 33].tag in caught.value.hint


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("0.30.0-tensorrtllm0.9.0-cu125", r"carries TensorRT-LLM 0\.12\.0, the tag says 0\.9\.0"),
        ("0.30.0-tensorrtllm0.12.0-cu122", "carries CUDA cu125, the tag says cu122"),
        ("0.30.0-lmi12.0.0-cu124", "of kind `lmi`"),
        ("0.29.0-neuronx-sdk2.19.1", "of kind `neuronx`"),
        ("latest", "expected the tag"),
        ("", "expected the tag"),
    ],
)
def test_tags_that_are_wrong(image: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        trtllm_image(image)


def test_versions_in_tags_of_every_kind() -> None:
    tag = parse_tag("0.30.0-neuronx-sdk2.20.1")
    assert (tag.release, tag.kind, tag.version) == ((0, 30), "neuronx", "2.20.1")
    assert parse_tag("0.33.0-lmi15.0.0-cu128").cuda == "cu128"
    assert parse_tag("0.27.0-deepspeed0.12.6-cu121").kind == "deepspeed"


def test_the_newest_published_image_of_a_version() -> None:
    found = image_for_trtllm("0.12.0")
    assert found is not None
    assert found.release == (0, 32)
    assert image_for_trtllm("0.21.0rc1") == TRTLLM[0, 33]
    assert image_for_trtllm("0.10.0") is None


def test_whole_names_by_region() -> None:
    tag = TRTLLM[0, 30].tag
    assert image_uri(tag, "us-east-1") == f"763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:{tag}"
    assert image_uri(tag, "il-central-1").startswith("780543022126.")
    assert image_uri(tag, "ap-south-2").startswith("772153158452.")
    assert image_uri(tag, "ap-southeast-4").startswith("457447274322.")
    assert image_uri(tag, "cn-north-1").endswith(f".amazonaws.com.cn/djl-inference:{tag}")
    assert image_uri("0.30.0", "us-east-1") == image_uri("0.30.0-trtllm", "us-east-1") == image_uri(tag, "us-east-1")
    assert image_uri("my.registry/mine:1", "us-east-1") == "my.registry/mine:1"
    assert image_uri(f"djl-inference:{tag}", "us-east-1") == image_uri(tag, "us-east-1")
    server = "vllm:server-sagemaker-cuda-v2.3"
    assert image_uri(server, "us-east-1") == f"763104351884.dkr.ecr.us-east-1.amazonaws.com/{server}"
    with pytest.raises(UsageError):
        image_uri("latest", "us-east-1")


@pytest.mark.parametrize(("region", "hint"), [("us-eest-1", "us-east-1"), ("", "full name")])
def test_a_region_without_registry_is_refused(region: str, hint: str) -> None:
    with pytest.raises(UsageError, match="region with a registry") as caught:
        image_uri(TRTLLM[0, 30].tag, region)
    assert hint in caught.value.hint
