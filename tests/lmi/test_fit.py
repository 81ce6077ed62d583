from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.errors import IncompatibleError, UsageError
from compiler.lmi.fit import Needs, check_fit
from compiler.lmi.images import TRTLLM

IMAGE = TRTLLM[0, 30].tag
NEEDS = Needs("mixtral", "cuda", ranks=8, rank_bytes=12 << 30, capability="8.0", image=IMAGE)


def test_what_fits() -> None:
    check_fit(NEEDS, "ml.p4d.24xlarge", IMAGE)
    check_fit(NEEDS, "p4de.24xlarge", TRTLLM[0, 32].tag)


@pytest.mark.parametrize(
    ("changed", "instance_type", "image", "said"),
    [
        ({}, "ml.g5.48xlarge", IMAGE, r"compute capability 8\.0; NVIDIA A10G of ml\.g5\.48xlarge has 8\.6"),
        ({"capability": "8.6"}, "ml.g5.12xlarge", IMAGE, r"split over 8 devices; ml\.g5\.12xlarge has 4"),
        (
            {"capability": "8.6", "rank_bytes": 50 << 30},
            "ml.g5.48xlarge",
            IMAGE,
            "50 GiB per rank do not fit in the 24 GiB",
        ),
        ({}, "ml.trn1.32xlarge", IMAGE, "it runs on NVIDIA GPUs; .* has AWS Trainium"),
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
        check_fit(replace(NEEDS, ranks=64), "ml.p4d.24xlarge", IMAGE)
    assert "No instance type" in caught.value.hint


def test_an_artifact_for_cpus_fits_any_machine_with_an_image_of_its_own() -> None:
    own = "111122223333.dkr.ecr.us-east-1.amazonaws.com/mine:1"
    check_fit(Needs("tiny", "cpu", ranks=2, rank_bytes=1), "ml.m5.xlarge", own)


def test_unknown_instance_types() -> None:
    with pytest.raises(UsageError, match=r"ml\.g5\.13xlarge"):
        check_fit(NEEDS, "ml.g5.13xlarge", IMAGE)
