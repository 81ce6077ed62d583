"""The instance table against botocore's names and EC2's own figures, as moto carries them."""

from __future__ import annotations

import gzip
import json
from importlib import resources
from typing import Any

import botocore.session
import pytest

from compiler.errors import UsageError
from compiler.lmi.instance_table import CAPABILITIES, INSTANCES, Instance
from compiler.lmi.instances import accelerated, fitting, instance

LEFT_OUT = {
    "ml.p2.xlarge", "ml.p2.8xlarge", "ml.p2.16xlarge",  # K80: no toolchain here compiles for it
    "ml.dl1.24xlarge", "ml.p6e-gb200.36xlarge",
}  # fmt: skip
CORES = {"Trainium2": 4}
"""NeuronCores of a chip as the runtime presents them, where they are not those of EC2's figures."""


def _ec2() -> dict[str, Any]:
    path = resources.files("moto.ec2") / "resources" / "instance_types.json.gz"
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def _devices(facts: dict[str, Any]) -> tuple[int, int]:
    """Number of devices, and MiB of one."""
    for gpu in facts.get("GpuInfo", {}).get("Gpus", ()):
        return gpu["Count"], gpu["MemoryInfo"]["SizeInMiB"]
    for chip in facts.get("NeuronInfo", {}).get("NeuronDevices", ()):
        cores = CORES.get(chip["Name"], chip["CoreInfo"]["Count"])
        mib = 96 << 10 if chip["Name"] == "Trainium2" else chip["MemoryInfo"]["SizeInMiB"]
        return chip["Count"] * cores, mib // cores
    return 0, 0


def test_the_table_has_every_type_that_the_service_hosts() -> None:
    model = botocore.session.get_session().get_service_model("sagemaker")
    assert set(model.shape_for("ProductionVariantInstanceType").metadata["enum"]) == {*INSTANCES, *LEFT_OUT}


def test_the_figures_are_those_of_ec2() -> None:
    known, wrong = _ec2(), []
    for name, found in INSTANCES.items():
        facts = known.get(name.removeprefix("ml."))
        if facts is None:
            assert name.startswith("ml.p3.")
            continue
        (architecture,) = set(facts["ProcessorInfo"]["SupportedArchitectures"]) - {"i386"}
        devices, mib = _devices(facts)
        ours = Instance(
            name, found.accelerator, found.capability, devices, mib, facts["VCpuInfo"]["DefaultVCpus"],
            facts["MemoryInfo"]["SizeInMiB"] / 1024, facts.get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0),
            architecture,
        )  # fmt: skip
        wrong += [(found, ours)] if found != ours else []
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "devices"), [("ml.p4d.24xlarge", 8), ("ml.g5.12xlarge", 4), ("g5.48xlarge", 8), ("ml.trn1.32xlarge", 32)]
)
def test_devices_of_an_instance_type(name: str, devices: int) -> None:
    assert instance(name).devices == devices


@pytest.mark.parametrize("name", ["ml.g5.13xlarge", "g5.13xlarge"])
def test_an_unknown_type_names_its_neighbors(name: str) -> None:
    with pytest.raises(UsageError, match=r"no instance type called `.*13xlarge`") as caught:
        instance(name)
    assert "ml.g5.12xlarge" in caught.value.hint


def test_a_type_that_the_service_has_and_the_table_lacks_is_refused_as_that() -> None:
    with pytest.raises(UsageError, match=r"hosts `ml\.dl1\.24xlarge`, whose devices and memory are not in the table"):
        instance("ml.dl1.24xlarge")


def test_a_type_without_accelerators_has_none_to_count() -> None:
    with pytest.raises(UsageError, match=r"`ml\.m5\.xlarge` has no accelerators \(4 vCPUs, 16 GiB\)"):
        accelerated("ml.m5.xlarge")


def test_every_gpu_has_its_capability() -> None:
    assert {found.accelerator for found in INSTANCES.values() if found.capability} == set(CAPABILITIES)
    assert all(found.capability for found in INSTANCES.values() if found.accelerator.startswith("NVIDIA"))


def test_instance_types_that_fit() -> None:
    assert fitting("9.0", 8, 100 << 30) == ["ml.p5e.48xlarge", "ml.p5en.48xlarge"]
    assert fitting("9.0", 9, 0) == []
