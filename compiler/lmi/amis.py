"""AMI versions of SageMaker's instances, by driver.

Source: the description of `InferenceAmiVersion` in data/sagemaker/2017-07-24/service-2.json of botocore 1.44.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.errors import UsageError


@dataclass(frozen=True)
class Ami:
    """Machine image of an instance. `driver`: major version of the GPU's or Neuron's; `cuda`: newest CUDA that this
    driver runs without a compatibility package, (0, 0) for none.
    """

    name: str
    driver: int
    cuda: tuple[int, int]


AMIS: tuple[Ami, ...] = (
    Ami("al2-ami-sagemaker-inference-gpu-2", 535, (12, 2)),
    Ami("al2-ami-sagemaker-inference-gpu-2-1", 535, (12, 2)),
    Ami("al2-ami-sagemaker-inference-gpu-3-1", 550, (12, 4)),
    Ami("al2023-ami-sagemaker-inference-gpu-4-1", 580, (13, 0)),
    Ami("al2-ami-sagemaker-inference-neuron-2", 2, (0, 0)),
)
"""Values of `InferenceAmiVersion`."""
LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""Oldest driver (major version) for each CUDA major version (CUDA compatibility guide, minor version compatibility)."""
_OLDEST = AMIS[0].cuda


def ami_of(name: str, cuda: tuple[int, int] | None, accelerator: str) -> str:
    """AMI for an image; "" is SageMaker's own. `name`: the one requested, "default" for SageMaker's own, or "" to
    derive it: SageMaker's own up to CUDA 12.2, else the oldest whose driver runs `cuda`, the image's (None: unknown).

    Raises UsageError for an unknown AMI, and for one of another accelerator or with a driver that is too old.
    """
    gpu = accelerator.startswith("NVIDIA")
    if name == "default" or (not name and (not gpu or cuda is None or cuda <= _OLDEST)):
        return ""
    if not name:
        assert cuda is not None
        return _refuse_unless(next((ami for ami in AMIS if ami.cuda >= cuda), None), cuda)
    found = next((ami for ami in AMIS if ami.name == name), None)
    if found is None:
        raise UsageError(
            f"SageMaker has no AMI version `{name}`", hint=f"one of {', '.join(ami.name for ami in AMIS)}, or `default`"
        )
    if gpu != (found.cuda > (0, 0)) or not accelerator:
        raise UsageError(
            f"`{name}` is an AMI for {'GPUs' if found.cuda > (0, 0) else 'Neuron devices'}; the instance type has "
            f"{accelerator or 'no accelerators'}",
            hint="leave `--ami` out",
        )
    if cuda is not None and found.driver < (least := LEAST_DRIVER.get(cuda[0], 0)):
        enough = next((ami.name for ami in AMIS if ami.driver >= least), "")
        raise UsageError(
            f"the image has CUDA {cuda[0]}.{cuda[1]}, which needs driver {least} or newer; `{name}` has {found.driver}",
            hint=f"`--ami {enough}`" if enough else "use an image with an older CUDA",
        )
    return name


def _refuse_unless(found: Ami | None, cuda: tuple[int, int]) -> str:
    if found is None:
        raise UsageError(
            f"no AMI version has a driver for CUDA {cuda[0]}.{cuda[1]}, which the image has; the newest is for "
            f"{max(ami.cuda for ami in AMIS)[0]}.{max(ami.cuda for ami in AMIS)[1]}",
            hint="`--ami default` leaves the choice to SageMaker",
        )
    return found.name
