from __future__ import annotations

import pytest

from compiler.errors import UsageError
from compiler.lmi.instances import instance


@pytest.mark.parametrize(
    ("name", "devices"), [("ml.p4d.24xlarge", 8), ("ml.g5.12xlarge", 4), ("g5.48xlarge", 8), ("ml.trn1.32xlarge", 32)]
)
def test_devices_of_an_instance_type(name: str, devices: int) -> None:
    assert instance(name).devices == devices


def test_an_unknown_type_names_its_neighbours() -> None:
    with pytest.raises(UsageError, match=r"ml\.g5\.13xlarge") as caught:
        instance("ml.g5.13xlarge")
    assert "ml.g5.12xlarge" in caught.value.hint
