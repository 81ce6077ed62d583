"""Bodies of the requests for inference components: several copies of one model on an endpoint.

The endpoint's configuration has the instances and no model; the component has the model, the share of an instance that
a copy gets, and the number of copies. It has the endpoint's name, so that a later deployment updates it in place.

Source: data/sagemaker/2017-07-24/service-2.json of botocore 1.44.5. Nothing was deployed so far.
"""

from __future__ import annotations

from typing import Any

from compiler.errors import UsageError
from compiler.lmi.capacity import USABLE, Fit
from compiler.lmi.sagemaker import VARIANT, CopyResources, Deployment, startup_parameters, tags_of

_STAGING = 4096
"""MiB of a copy on GPUs, besides its weights: the server and its processes. An estimate of ours."""
_LEAST = 128


def create_inference_component(deployment: Deployment) -> dict[str, Any]:
    """Arguments of CreateInferenceComponent."""
    return {
        **update_inference_component(deployment),
        "EndpointName": deployment.name,
        "VariantName": VARIANT,
        **tags_of(deployment),
    }


def update_inference_component(deployment: Deployment) -> dict[str, Any]:
    """Arguments of UpdateInferenceComponent: the new model, its resources and its number of copies."""
    resources = deployment.resources
    assert resources is not None
    required: dict[str, int] = {"MinMemoryRequiredInMb": resources.memory_mb}
    if resources.devices is not None:
        required["NumberOfAcceleratorDevicesRequired"] = resources.devices
    if resources.cores is not None:
        required["NumberOfCpuCoresRequired"] = resources.cores
    return {
        "InferenceComponentName": deployment.name,
        "Specification": {
            "ModelName": deployment.model_name,
            "StartupParameters": startup_parameters(deployment),
            "ComputeResourceRequirements": required,
        },
        "RuntimeConfig": {"CopyCount": deployment.copies},
    }


def copies_of(text: str, fit: Fit, count: int, kind: str) -> int:
    """Number of copies of `--copies`; 0: no components. `count`: number of instances; `kind`: of device.

    Raises UsageError for a text that is no number, and for more copies than fit.
    """
    if not text:
        return 0
    most = fit.copies * count
    if text != "auto" and not (text.isdecimal() and int(text) >= 1):
        raise UsageError(f"`--copies` is a number or `auto`; found `{text}`", hint="leave it out for one copy")
    if kind not in ("cuda", "cpu"):
        raise UsageError(
            f"`--copies` is for GPUs and processors; this artifact runs on `{kind}`",
            hint="leave it out: how components count NeuronCores is not verified",
        )
    wanted = most if text == "auto" else int(text)
    if wanted > most:
        raise UsageError(
            f"`--copies {wanted}`: {count} x {fit.instance.name} {'has' if count == 1 else 'have'} room for {most}",
            hint=f"`--copies auto` takes {most}, or raise `--count`",
        )
    return wanted


def resources_of(fit: Fit, kind: str) -> CopyResources:
    """Share of an instance for one of the copies that fit on it."""
    one, demand = fit.instance, fit.demand
    share = int(one.ram_bytes * USABLE / fit.copies) >> 20
    weights = demand.weights * demand.ranks >> 20
    if kind == "cuda":
        return CopyResources(demand.ranks, None, max(min(weights + _STAGING, share), _LEAST))
    return CopyResources(None, max(one.vcpus // fit.copies, 1), max(share, _LEAST))
