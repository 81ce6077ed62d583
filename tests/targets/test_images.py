"""Whether a container image can serve an artifact, as its target says."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.testbed.artifacts import manifest
from compiler import targets
from compiler.artifact.manifest import Device
from compiler.lmi.images import TRTLLM
from compiler.targets.trtllm.section import BuildLimits, Engines

IMAGE = TRTLLM[0, 30].tag
OWN = "111122223333.dkr.ecr.us-east-1.amazonaws.com/mine:1"


def problems(image: str, capability: str | None = "8.0", **section: Any) -> list[str]:
    fields: dict[str, Any] = {
        "version": "0.12.0",
        "image": IMAGE,
        "container": "triton",
        "quant_algo": "",
        "checkpoint": {},
        "checkpoint_files": (),
        "files": ("weights/rank0.safetensors", "weights/rank1.safetensors"),
        "limits": BuildLimits(max_batch_size=1, max_input_len=8, max_seq_len=16, max_num_tokens=8),
        "argv": (),
    }
    device = Device(kind="cuda", capability=capability)
    made = manifest(target="trtllm", device=device, section=Engines(**{**fields, **section}))
    return list(targets.load("trtllm").runtime.endpoint_problems(made, image, "ml.g5.12xlarge"))


def test_engines_are_served_by_images_of_their_version_and_tree() -> None:
    assert problems(IMAGE) == []
    assert problems(TRTLLM[0, 32].tag) == []
    assert problems(IMAGE, version="0.12.0rc1") == []


@pytest.mark.parametrize(
    ("changed", "image", "said"),
    [
        ({"capability": None}, IMAGE, "its engines are not built yet"),
        ({}, TRTLLM[0, 29].tag, "for TensorRT-LLM 0.12.0; the image has 0.11.0"),
        ({"version": "0.21.0"}, TRTLLM[0, 33].tag, "laid out for 0.30.0-tensorrtllm0.12.0-cu125; LMI"),
        ({}, "0.33.0-lmi15.0.0-cu128", "of kind `lmi`"),
        ({}, "0.34.0-tensorrtllm0.12.0-cu125", "found 0.34"),
    ],
)
def test_other_images_are_refused_for_engines(changed: dict[str, Any], image: str, said: str) -> None:
    assert said in "\n".join(problems(image, **changed))


def test_compiled_segments_are_served_by_images_of_their_owner_only() -> None:
    runtime = targets.load("inductor").runtime
    assert "another kind of artifact" in "\n".join(runtime.endpoint_problems(manifest(), IMAGE, "ml.m5.xlarge"))
    assert list(runtime.endpoint_problems(manifest(), OWN, "ml.m5.xlarge")) == []
