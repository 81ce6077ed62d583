from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.errors import IncompatibleError, UsageError
from compiler.lmi.fit import Needs, check_fit
from compiler.lmi.images import TRTLLM

IMAGE = TRTLLM[0, 30].tag
NEEDS = Needs("mixtral", "cuda", ranks=8, rank_bytes=12 << 30, capability="8.0", trtllm="0.12.0", image=IMAGE)


def test_what_fits() -> None:
    check_fit(NEEDS, "ml.p4d.24xlarge", IMAGE)
    check_fit(NEEDS, "p4de.24xlarge", TRTLLM[0, 32].tag)
    check_fit(replace(NEEDS, trtllm="0.12.0rc1"), "ml.p4d.24xlarge", IMAGE)


@pytest.mark.parametrize(
    ("changed", "instance_type", "image", "said"),
    [
        ({}, "ml.g5.48xlarge", IMAGE, r"compute capability 8\.0; NVIDIA A10G of ml\.g5\.48xlarge has 8\.6"),
        ({"capability": "8.6"}, "ml.g5.12xlarge", IMAGE, r"split over 8 devices; ml\.g5\.12xlarge has 4"),
        (
            {"capability": "8.6", "rank_bytes": 50 << 30},
            "ml.g5.48xlarge",
            IMAGE,
            "50 GiB a rank do not fit in the 24 GiB",
        ),
        ({}, "ml.trn1.32xlarge", IMAGE, "it runs on NVIDIA GPUs; .* has AWS Trainium"),
        ({"capability": None}, "ml.p4d.24xlarge", IMAGE, "its engines are not built yet"),
        ({"stand_in": True}, "ml.p4d.24xlarge", IMAGE, "stand-in toolchain of the tests"),
        ({}, "ml.p4d.24xlarge", TRTLLM[0, 29].tag, r"of TensorRT-LLM 0\.12\.0; the image carries 0\.11\.0"),
        ({"trtllm": "0.21.0"}, "ml.p4d.24xlarge", TRTLLM[0, 33].tag, "laid out for 0.30.0-tensorrtllm.* another tree"),
        ({"trtllm": "", "image": ""}, "ml.p4d.24xlarge", IMAGE, "another kind of artifact"),
        ({}, "ml.p4d.24xlarge", "0.33.0-lmi15.0.0-cu128", "of kind `lmi`"),
        ({}, "ml.p4d.24xlarge", "0.34.0-tensorrtllm0.12.0-cu125", r"found 0\.34"),
    ],
)
def test_what_does_not(changed: dict[str, object], instance_type: str, image: str, said: str) -> None:
    with pytest.raises(IncompatibleError, match=said):
        check_fit(replace(NEEDS, **changed), instance_type, image)  # type: ignore[arg-type]


def test_all_that_does_not_fit_is_said_at_once_with_what_does() -> None:
    with pytest.raises(IncompatibleError) as caught:
        check_fit(NEEDS, "ml.g5.12xlarge", TRTLLM[0, 33].tag)
    assert len(caught.value.message.splitlines()) == 4
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
