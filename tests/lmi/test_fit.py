from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.errors import IncompatibleError, UsageError
from compiler.lmi.capacity import Demand
from compiler.lmi.fit import Needs, check_fit
from compiler.lmi.images import TRTLLM

IMAGE = TRTLLM[0, 30].tag
DEMAND = Demand(ranks=8, weights=12 << 30, cache=16384, workspace=1 << 30, batch=8, length=4096)
NEEDS = Needs("mixtral", "cuda", DEMAND, capability="8.0", image=IMAGE)


def test_what_fits() -> None:
    assert check_fit(NEEDS, "ml.p4d.24xlarge", IMAGE).copies == 1
    assert check_fit(replace(NEEDS, demand=replace(DEMAND, ranks=4)), "ml.p4d.24xlarge", IMAGE).copies == 2
    check_fit(NEEDS, "p4de.24xlarge", TRTLLM[0, 32].tag)


@pytest.mark.parametrize(
    ("changed", "instance_type", "image", "said"),
    [
        ({}, "ml.g5.48xlarge", IMAGE, r"compute capability 8\.0; NVIDIA A10G of ml\.g5\.48xlarge has 8\.6"),
        ({"capability": "8.6"}, "ml.g5.12xlarge", IMAGE, r"split over 8 devices; ml\.g5\.12xlarge has 4"),
        (
            {"capability": "8.6", "demand": replace(DEMAND, weights=50 << 30)},
            "ml.g5.48xlarge",
            IMAGE,
            r"50\.0 GiB of weights \+ 0\.5 GiB of KV cache .* = 51\.5 GiB a device; NVIDIA A10G .* has 22\.4 GiB",
        ),
        ({}, "ml.trn1.32xlarge", IMAGE, "it runs on NVIDIA GPUs; .* has AWS Trainium"),
        ({"size": 9 * 10**12}, "ml.p4d.24xlarge", IMAGE, "its files are 9000 GB; .* has local disks 8000 GB"),
        (
            {"capability": None, "size": 600 * 10**9},
            "ml.p3.16xlarge",
            IMAGE,
            "its files are 600 GB; .* has a volume of at most 512 GB",
        ),
        (
            {"kind": "cpu", "isa": "x86-64-v3", "demand": replace(DEMAND, ranks=1, weights=1)},
            "ml.c7g.16xlarge",
            IMAGE,
            "it was compiled for x86-64-v3; .* has processors of arm64",
        ),
        ({"kind": "cpu"}, "ml.m5.xlarge", IMAGE, r"8 x \(12\.0 GiB of weights .* = 108\.0 GiB; .* has 16\.0 GiB"),
        ({"kind": "neuron"}, "ml.g5.48xlarge", IMAGE, "it runs on NeuronCores; .* has NVIDIA A10G"),
        ({}, "ml.m5.xlarge", IMAGE, "it runs on NVIDIA GPUs; .* has no accelerator"),
        ({"stand_in": True}, "ml.p4d.24xlarge", IMAGE, "stand-in toolchain of the tests"),
    ],
)
def test_what_does_not(changed: dict[str, object], instance_type: str, image: str, said: str) -> None:
    with pytest.raises(IncompatibleError, match=said):
        check_fit(replace(NEEDS, **changed), instance_type, image)  # type: ignore[arg-type]


def test_all_that_does_not_fit_is_said_at_once_with_what_does() -> None:
    with pytest.raises(IncompatibleError) as caught:
        check_fit(NEEDS, "ml.g5.12xlarge", TRTLLM[0, 33].tag, ["its engines are of another version"])
    assert len(caught.value.message.splitlines()) == 4
    assert "its engines are of another version" in caught.value.message
    assert "ml.p4d.24xlarge" in caught.value.hint
    assert IMAGE in caught.value.hint


def test_where_nothing_fits_it_is_said() -> None:
    with pytest.raises(IncompatibleError) as caught:
        check_fit(replace(NEEDS, demand=replace(DEMAND, ranks=64)), "ml.p4d.24xlarge", IMAGE)
    assert "No instance type" in caught.value.hint


def test_an_artifact_for_cpus_fits_any_machine_with_an_image_of_its_own() -> None:
    own = "111122223333.dkr.ecr.us-east-1.amazonaws.com/mine:1"
    small = Demand(ranks=2, weights=1, cache=1, workspace=1, batch=1, length=1)
    check_fit(Needs("tiny", "cpu", small), "ml.m5.xlarge", own)


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
@pytest.mark.parametrize("name", ["ml.g5.13xlarge", "ml.c99.huge"])
def test_unknown_instance_types(name: str, kind: str) -> None:
    with pytest.raises(UsageError, match="no instance type called"):
        check_fit(replace(NEEDS, kind=kind), name, IMAGE)
