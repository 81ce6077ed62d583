"""Requests of deployments, and answers of SageMaker to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.testbed.artifacts import manifest
from compiler.artifact.manifest import Device, Manifest, Parallel
from compiler.deploy.request import DeployRequest
from compiler.storage.files.digest import digest_bytes
from compiler.targets.trtllm.section import BuildLimits, Engines

if TYPE_CHECKING:
    from botocore.stub import Stubber

BUCKET = "models"
PREFIX = f"s3://{BUCKET}/tiny/v1/"
ROLE_NAME = "endpoints"
ROLE = f"arn:aws:iam::123456789012:role/{ROLE_NAME}"
IMAGE = "111122223333.dkr.ecr.us-east-1.amazonaws.com/mine:1"
REQUEST = DeployRequest(PREFIX, "ml.m5.xlarge", ROLE, image=IMAGE)
TRUST: dict[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
NOW = "2026-01-01T00:00:00Z"
_ARN = "arn:aws:sagemaker:us-east-1:123456789012"


def engines(tp: int = 2, capability: str = "8.6") -> Manifest:
    """The testbed's files as the engines of two A10G, for LMI 0.30."""
    return manifest(
        target="trtllm",
        device=Device(kind="cuda", capability=capability),
        parallel=Parallel(tp=tp),
        section=Engines(
            version="0.12.0",
            image="0.30.0-tensorrtllm0.12.0-cu125",
            container="triton",
            quant_algo="",
            checkpoint={"rank0.safetensors": digest_bytes(b"rank")},
            checkpoint_files=(),
            files=("weights/rank0.safetensors", "weights/rank1.safetensors"),
            limits=BuildLimits(max_batch_size=8, max_input_len=1024, max_seq_len=1536, max_num_tokens=4096),
            argv=(),
        ),
    )


def created(stubber: Stubber, operation: str, expected: dict[str, Any] | None = None) -> None:
    """Queue an answer to a request that creates or updates something."""
    arn = {
        "create_model": "ModelArn",
        "create_endpoint_config": "EndpointConfigArn",
        "create_inference_component": "InferenceComponentArn",
        "update_inference_component": "InferenceComponentArn",
    }.get(operation, "EndpointArn")
    stubber.add_response(operation, {arn: f"{_ARN}:endpoint/{operation}"}, expected)


def exists(stubber: Stubber, operation: str) -> None:
    """Queue the refusal of a name that exists."""
    stubber.add_client_error(operation, "ValidationException", "Cannot create already existing thing")


def endpoint_status(stubber: Stubber, status: str, config: str = "tiny-00000000", **more: Any) -> None:
    """Queue a description of the endpoint `tiny`."""
    answer = {
        "EndpointName": "tiny",
        "EndpointArn": f"{_ARN}:endpoint/tiny",
        "EndpointConfigName": config,
        "EndpointStatus": status,
        "CreationTime": NOW,
        "LastModifiedTime": NOW,
        **more,
    }
    stubber.add_response("describe_endpoint", answer, {"EndpointName": "tiny"})


def component_status(stubber: Stubber, status: str, model: str, copies: tuple[int, int] = (2, 2), **more: Any) -> None:
    """Queue a description of the inference component `tiny`. `copies`: running, and requested."""
    answer = {
        "InferenceComponentName": "tiny",
        "InferenceComponentArn": f"{_ARN}:inference-component/tiny",
        "EndpointName": "tiny",
        "EndpointArn": f"{_ARN}:endpoint/tiny",
        "InferenceComponentStatus": status,
        "Specification": {
            "ModelName": model,
            "ComputeResourceRequirements": {"NumberOfAcceleratorDevicesRequired": 4, "MinMemoryRequiredInMb": 1024},
        },
        "RuntimeConfig": {"CurrentCopyCount": copies[0], "DesiredCopyCount": copies[1]},
        "CreationTime": NOW,
        "LastModifiedTime": NOW,
        **more,
    }
    stubber.add_response("describe_inference_component", answer, {"InferenceComponentName": "tiny"})
