from __future__ import annotations

import pytest

from compiler.errors import UsageError
from compiler.lmi.instances import CAPABILITIES, INSTANCES, fitting, instance


@pytest.mark.parametrize(
    ("name", "devices"), [("ml.p4d.24xlarge", 8), ("ml.g5.12xlarge", 4), ("g5.48xlarge", 8), ("ml.trn1.32xlarge", 32)]
)
def test_devices_of_an_instance_type(name: str, devices: int) -> None:
    assert instance(name).devices == devices


def test_an_unknown_type_names_its_neighbours() -> None:
    with pytest.raises(UsageError, match=r"ml\.g5\.13xlarge") as caught:
        instance("ml.g5.13xlarge")
    assert "ml.g5.12xlarge" in caught.value.hint


def test_every_nvidia_accelerator_has_its_capability() -> None:
    nvidia = {found.accelerator for found in INSTANCES.values() if found.accelerator.startswith("NVIDIA")}
    assert nvidia == set(CAPABILITIES)


def test_instance_types_that_fit() -> None:
    assert fitting("9.0", 8, 100 << 30) == ["ml.p5e.48xlarge", "ml.p5en.48xlarge"]
    assert fitting("9.0", 9, 0) == []
