"""SageMaker's hosting instance types, as data.

Sources, read in November 2026: names from the enumeration `ProductionVariantInstanceType` of botocore 1.44.5; figures
from EC2's DescribeInstanceTypes as moto 5.2.5 carries them (tests compare both). Its figure for the memory of a Trn2
chip is wrong: 96 GiB, by the EC2 user guide, as are the figures of P3, which it no longer lists.

A Neuron device is a NeuronCore: an Inf2 or Trn1 chip has two cores and 32 GiB, a Trn2 chip eight cores and 96 GiB,
which the runtime presents as four by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

READ = "2026-11"
"""Year and month in which the figures were read."""

Architecture = Literal["x86_64", "arm64"]


@dataclass(frozen=True)
class Instance:
    """Instance type. `accelerator`: "" for none. `devices`: the number that `--tp max` takes; `device_mib`: memory of
    one; `capability`: compute capability of a GPU, or "". `ram`: GiB; `nvme`: GB of local disks.
    """

    name: str
    accelerator: str
    capability: str
    devices: int
    device_mib: int
    vcpus: int
    ram: float
    nvme: int
    architecture: Architecture

    @property
    def family(self) -> str:
        return self.name.split(".")[1]

    @property
    def maker(self) -> str:
        """Maker of the accelerators, `NVIDIA` or `AWS`; "" for none."""
        return self.accelerator.partition(" ")[0]

    @property
    def device_bytes(self) -> int:
        return self.device_mib << 20

    @property
    def ram_bytes(self) -> int:
        return int(self.ram * (1 << 30))


CAPABILITIES: dict[str, str] = {
    "NVIDIA V100": "7.0",
    "NVIDIA T4": "7.5",
    "NVIDIA A10G": "8.6",
    "NVIDIA L4": "8.9",
    "NVIDIA L40S": "8.9",
    "NVIDIA A100": "8.0",
    "NVIDIA H100": "9.0",
    "NVIDIA H200": "9.0",
    "NVIDIA B200": "10.0",
    "NVIDIA B300": "10.3",
    "NVIDIA RTX PRO 4500": "12.0",
    "NVIDIA RTX PRO 6000": "12.0",
}
"""Compute capability of each GPU. Sources: NVIDIA's list of CUDA GPUs; `LmiUtils.getAWSGpuMachineType` of djl-serving
at v0.29.0 agrees for the GPUs that it has.
"""

_ACCELERATED: dict[str, tuple[str, int, str]] = {
    "p3": ("NVIDIA V100", 16384, "2xlarge 1 8 61 0, 8xlarge 4 32 244 0, 16xlarge 8 64 488 0"),
    "g4dn": (
        "NVIDIA T4",
        16384,
        ("xlarge 1 4 16 125, 2xlarge 1 8 32 225, 4xlarge 1 16 64 225, 8xlarge 1 32 128 900, 12xlarge 4 48 192 900, "
        "16xlarge 1 64 256 900"),
    ),
    "g5": (
        "NVIDIA A10G",
        22888,
        ("xlarge 1 4 16 250, 2xlarge 1 8 32 450, 4xlarge 1 16 64 600, 8xlarge 1 32 128 900, 12xlarge 4 48 192 3800, "
        "16xlarge 1 64 256 1900, 24xlarge 4 96 384 3800, 48xlarge 8 192 768 7600"),
    ),
    "g6": (
        "NVIDIA L4",
        22888,
        ("xlarge 1 4 16 250, 2xlarge 1 8 32 450, 4xlarge 1 16 64 600, 8xlarge 1 32 128 900, 12xlarge 4 48 192 3760, "
        "16xlarge 1 64 256 1880, 24xlarge 4 96 384 3760, 48xlarge 8 192 768 7520"),
    ),
    "g6e": (
        "NVIDIA L40S",
        45776,
        ("xlarge 1 4 32 250, 2xlarge 1 8 64 450, 4xlarge 1 16 128 600, 8xlarge 1 32 256 900, 12xlarge 4 48 384 3800, "
        "16xlarge 1 64 512 1900, 24xlarge 4 96 768 3800, 48xlarge 8 192 1536 7600"),
    ),
    "g7": (
        "NVIDIA RTX PRO 4500",
        32768,
        ("2xlarge 1 8 32 440, 4xlarge 1 16 64 875, 8xlarge 1 32 128 930, 12xlarge 2 48 192 1900, "
        "24xlarge 4 96 384 3800, 48xlarge 8 192 768 7600"),
    ),
    "g7e": (
        "NVIDIA RTX PRO 6000",
        98304,
        ("2xlarge 1 8 64 1900, 4xlarge 1 16 128 1900, 8xlarge 1 32 256 1900, 12xlarge 2 48 512 3800, "
        "24xlarge 4 96 1024 7600, 48xlarge 8 192 2048 15200"),
    ),
    "p4d": ("NVIDIA A100", 40960, "24xlarge 8 96 1152 8000"),
    "p4de": ("NVIDIA A100", 81920, "24xlarge 8 96 1152 8000"),
    "p5": ("NVIDIA H100", 81920, "4xlarge 1 16 256 3800, 48xlarge 8 192 2048 30400"),
    "p5e": ("NVIDIA H200", 144384, "48xlarge 8 192 2048 30400"),
    "p5en": ("NVIDIA H200", 144384, "48xlarge 8 192 2048 30400"),
    "p6-b200": ("NVIDIA B200", 183359, "48xlarge 8 192 2048 30400"),
    "p6-b300": ("NVIDIA B300", 275040, "48xlarge 8 192 4096 30400"),
    "inf1": ("AWS Inferentia", 2048, "xlarge 4 4 8 0, 2xlarge 4 8 16 0, 6xlarge 16 24 48 0, 24xlarge 64 96 192 0"),
    "inf2": (
        "AWS Inferentia2",
        16384,
        "xlarge 2 4 16 0, 8xlarge 2 32 128 0, 24xlarge 12 96 384 0, 48xlarge 24 192 768 0",
    ),
    "trn1": ("AWS Trainium", 16384, "2xlarge 2 8 32 474, 32xlarge 32 128 512 7600"),
    "trn1n": ("AWS Trainium", 16384, "32xlarge 32 128 512 7600"),
    "trn2": ("AWS Trainium2", 24576, "48xlarge 64 192 2048 7600"),
}  # fmt: skip
"""By family: accelerator, MiB of one device, and the sizes: devices, vCPUs, GiB of memory, GB of local disks."""

_TO_16 = "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge"
_TO_24 = "large xlarge 2xlarge 4xlarge 12xlarge 24xlarge"
_TO_32 = f"{_TO_16} 24xlarge 32xlarge"
_TO_48 = f"{_TO_16} 24xlarge 48xlarge"
_C5 = "large xlarge 2xlarge 4xlarge 9xlarge 18xlarge"
_GRAVITON_DISKS = (118, 237, 474, 950, 1900, 2850, 3800)

_PROCESSORS: dict[str, tuple[Architecture, float, str, tuple[int, ...]]] = {
    "t2": ("x86_64", 4, "large xlarge 2xlarge", ()),
    "m4": ("x86_64", 4, "xlarge 2xlarge 4xlarge 10xlarge 16xlarge", ()),
    "m5": ("x86_64", 4, _TO_24, ()),
    "m5d": ("x86_64", 4, _TO_24, (75, 150, 300, 600, 1800, 3600)),
    "m6i": ("x86_64", 4, _TO_32, ()),
    "m7i": ("x86_64", 4, _TO_48, ()),
    "c4": ("x86_64", 1.875, "large xlarge 2xlarge 4xlarge", ()),
    "c5": ("x86_64", 2, _C5, ()),
    "c5d": ("x86_64", 2, _C5, (50, 100, 200, 400, 900, 1800)),
    "c6i": ("x86_64", 2, _TO_32, ()),
    "c6in": ("x86_64", 2, _TO_32, ()),
    "c7i": ("x86_64", 2, _TO_48, ()),
    "r5": ("x86_64", 8, _TO_24, ()),
    "r5d": ("x86_64", 8, _TO_24, (75, 150, 300, 600, 1800, 3600)),
    "r6i": ("x86_64", 8, _TO_32, ()),
    "r7i": ("x86_64", 8, _TO_48, ()),
    "m6g": ("arm64", 4, _TO_16, ()),
    "m6gd": ("arm64", 4, _TO_16, _GRAVITON_DISKS),
    "m8g": ("arm64", 4, f"medium {_TO_48}", ()),
    "c6g": ("arm64", 2, _TO_16, ()),
    "c6gd": ("arm64", 2, _TO_16, _GRAVITON_DISKS),
    "c6gn": ("arm64", 2, _TO_16, ()),
    "c7g": ("arm64", 2, _TO_16, ()),
    "c8g": ("arm64", 2, f"medium {_TO_48}", ()),
    "r6g": ("arm64", 8, _TO_16, ()),
    "r6gd": ("arm64", 8, _TO_16, _GRAVITON_DISKS),
    "r7gd": ("arm64", 8, f"medium {_TO_16}", (59, *_GRAVITON_DISKS)),
    "r8g": ("arm64", 8, f"medium {_TO_48}", ()),
}
"""By family: architecture, GiB of memory for each vCPU, the sizes, and GB of local disks of each size (none: ())."""

_OTHERS = (
    Instance("ml.t2.medium", "", "", 0, 0, 2, 4, 0, "x86_64"),
    Instance("ml.c4.8xlarge", "", "", 0, 0, 36, 60, 0, "x86_64"),
)
"""Sizes that break the rule of their family."""


def _accelerated(family: str) -> list[Instance]:
    accelerator, mib, sizes = _ACCELERATED[family]
    capability, found = CAPABILITIES.get(accelerator, ""), []
    for text in sizes.split(", "):
        size, *figures = text.split()
        devices, vcpus, ram, nvme = map(int, figures)
        name = f"ml.{family}.{size}"
        found.append(Instance(name, accelerator, capability, devices, mib, vcpus, ram, nvme, "x86_64"))
    return found


def _processors(family: str) -> list[Instance]:
    architecture, ratio, sizes, disks = _PROCESSORS[family]
    names = sizes.split()
    return [
        Instance(f"ml.{family}.{size}", "", "", 0, 0, _vcpus(size), _vcpus(size) * ratio, nvme, architecture)
        for size, nvme in zip(names, disks or (0,) * len(names), strict=True)
    ]


def _vcpus(size: str) -> int:
    """Number of vCPUs of a size: `medium` has one, `xlarge` four, `Nxlarge` four times N."""
    return {"medium": 1, "large": 2, "xlarge": 4}.get(size) or 4 * int(size.removesuffix("xlarge"))


INSTANCES: dict[str, Instance] = {
    one.name: one
    for group in (*map(_accelerated, _ACCELERATED), *map(_processors, _PROCESSORS), _OTHERS)
    for one in group
}
"""Instance types by name, `ml.` included."""
