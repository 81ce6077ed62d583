"""AMI versions against botocore's enumeration, and the choice by an image's CUDA."""

from __future__ import annotations

import re

import botocore.session
import pytest

from compiler.errors import UsageError
from compiler.lmi.amis import AMIS, ami_of

GPU = "NVIDIA A10G"
OLD, NEW = "al2-ami-sagemaker-inference-gpu-2", "al2023-ami-sagemaker-inference-gpu-4-1"


def test_names_and_drivers_are_those_that_botocore_describes() -> None:
    model = botocore.session.get_session().get_service_model("sagemaker")
    member = model.shape_for("ProductionVariant").members["InferenceAmiVersion"]
    assert {ami.name for ami in AMIS} == set(member.metadata["enum"])
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", member.documentation))
    for ami in AMIS[:4]:
        facts = words.partition(f" {ami.name} ")[2]
        found = re.search(r"driver version: (\d+) CUDA version: (\d+)\.(\d+)", facts)
        assert found
        assert (ami.driver, ami.cuda) == (int(found[1]), (int(found[2]), int(found[3])))


@pytest.mark.parametrize(
    ("name", "cuda", "accelerator", "chosen"),
    [
        ("", (12, 2), GPU, ""),
        ("", (12, 4), GPU, "al2-ami-sagemaker-inference-gpu-3-1"),
        ("", (12, 8), GPU, NEW),
        ("", (13, 0), GPU, NEW),
        ("", None, GPU, ""),
        ("", (12, 8), "", ""),
        ("default", (13, 0), GPU, ""),
        (OLD, (12, 8), GPU, OLD),  # minor versions are compatible
        ("al2-ami-sagemaker-inference-neuron-2", None, "AWS Trainium", "al2-ami-sagemaker-inference-neuron-2"),
    ],
)
def test_the_choice(name: str, cuda: tuple[int, int] | None, accelerator: str, chosen: str) -> None:
    assert ami_of(name, cuda, accelerator) == chosen


@pytest.mark.parametrize(
    ("name", "cuda", "accelerator", "said"),
    [
        ("al2-ami-sagemaker-inference-gpu-1", None, GPU, "no AMI version `al2-ami-sagemaker-inference-gpu-1`"),
        (OLD, (13, 0), GPU, r"CUDA 13\.0, which needs driver 580 or newer; .* has 535"),
        ("", (13, 2), GPU, r"no AMI version has a driver for CUDA 13\.2, .*; the newest is for 13\.0"),
        (NEW, None, "AWS Inferentia2", "an AMI for GPUs; the instance type has AWS Inferentia2"),
        ("al2-ami-sagemaker-inference-neuron-2", None, GPU, "an AMI for Neuron devices; .* has NVIDIA A10G"),
    ],
)
def test_refusals(name: str, cuda: tuple[int, int] | None, accelerator: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ami_of(name, cuda, accelerator)
