"""Definitions of an endpoint for CloudFormation and Terraform, from the bodies of SageMaker's requests.

CloudFormation's properties have the names of the requests. Terraform's arguments are these in snake case, but for the
name of each resource and for tags. A name of another resource is a reference, so that both tools know the order.

Sources: the resource schemas that cfn-lint carries; the pages aws_sagemaker_{model,endpoint_configuration,endpoint,
inference_component} of Terraform's AWS provider, read in November 2026. Nothing was applied so far.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from compiler.errors import UsageError
from compiler.lmi.components import create_inference_component
from compiler.lmi.sagemaker import Deployment, create_endpoint, create_endpoint_config, create_model

Format = Literal["terraform", "cloudformation"]

_RESOURCES = ("Model", "EndpointConfig", "Endpoint", "InferenceComponent")
"""Resources in the order of their creation; each has a name in `RESOURCEName`."""
_TERRAFORM = {
    "Model": "aws_sagemaker_model",
    "EndpointConfig": "aws_sagemaker_endpoint_configuration",
    "Endpoint": "aws_sagemaker_endpoint",
    "InferenceComponent": "aws_sagemaker_inference_component",
}
_NO_ARGUMENT = {"EndpointConfig": ("EnableNetworkIsolation",)}
"""Members that Terraform's resource lacks."""
_MAPS = ("Environment",)


def emit(deployment: Deployment, form: str, region: str) -> str:
    """Text of the definition in a format. Raises UsageError for an unknown one."""
    check_format(form)
    found = terraform(deployment, region) if form == "terraform" else cloudformation(deployment)
    return json.dumps(found, indent=2) + "\n"


def check_format(form: str) -> None:
    """Raises UsageError for an unknown format."""
    if form not in get_args(Format):
        raise UsageError(f"`--emit` is {' or '.join(get_args(Format))}; found `{form}`", hint="pass one of them")


def cloudformation(deployment: Deployment) -> dict[str, Any]:
    """Template in JSON."""
    found = {}
    for kind, body in _bodies(deployment).items():
        properties = _referring(body, kind, lambda other: {"Fn::GetAtt": [other, f"{other}Name"]})
        if kind == "EndpointConfig" and not deployment.copies:
            # CloudFormation demands the weight that the service adds
            properties["ProductionVariants"][0]["InitialVariantWeight"] = 1.0
        found[kind] = {"Type": f"AWS::SageMaker::{kind}", "Properties": properties}
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Endpoint {deployment.name} of {deployment.prefix}, by lmi-compile",
        "Resources": found,
        "Outputs": {"EndpointName": {"Value": {"Fn::GetAtt": ["Endpoint", "EndpointName"]}}},
    }


def terraform(deployment: Deployment, region: str) -> dict[str, Any]:
    """Configuration in Terraform's JSON syntax (`main.tf.json`)."""
    found: dict[str, Any] = {}
    for kind, body in _bodies(deployment).items():
        kept = {key: value for key, value in body.items() if key not in _NO_ARGUMENT.get(kind, ())}
        body = _referring(kept, kind, lambda other: f"${{{_TERRAFORM[other]}.{_label(deployment)}.name}}")
        own = {"name": body.pop(f"{kind}Name")}
        tags = {tag["Key"]: tag["Value"] for tag in body.pop("Tags", ())}
        arguments = own | _snake(body) | ({"tags": tags} if tags else {})
        if kind in ("Model", "EndpointConfig"):
            # the endpoint is moved to the new one before the old one is deleted
            arguments["lifecycle"] = {"create_before_destroy": True}
        found[_TERRAFORM[kind]] = {_label(deployment): arguments}
    return {
        "//": f"Endpoint {deployment.name} of {deployment.prefix}, by lmi-compile",
        "terraform": {"required_providers": {"aws": {"source": "hashicorp/aws"}}},
        "provider": {"aws": {"region": region}},
        "resource": found,
    }


def _bodies(deployment: Deployment) -> dict[str, dict[str, Any]]:
    bodies = {
        "Model": create_model(deployment),
        "EndpointConfig": create_endpoint_config(deployment),
        "Endpoint": create_endpoint(deployment),
    }
    return bodies | ({"InferenceComponent": create_inference_component(deployment)} if deployment.copies else {})


def _referring(value: Any, kind: str, reference: Any) -> Any:
    """`value` with a reference in place of the name of each resource but `kind` itself."""
    if isinstance(value, list):
        return [_referring(one, kind, reference) for one in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: reference(key.removesuffix("Name"))
        if key.removesuffix("Name") in _RESOURCES and key != f"{kind}Name"
        else _referring(one, kind, reference)
        for key, one in value.items()
    }


def _snake(value: Any) -> Any:
    """`value` with keys in snake case; the keys of a map of the user are kept."""
    if isinstance(value, list):
        return [_snake(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    return {snake(key): dict(one) if key in _MAPS else _snake(one) for key, one in value.items()}


def snake(name: str) -> str:
    """`ModelDataDownloadTimeoutInSeconds` as `model_data_download_timeout_in_seconds`, `S3Uri` as `s3_uri`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _label(deployment: Deployment) -> str:
    """Label of the resources: a name that begins with a letter."""
    text = re.sub(r"[^a-zA-Z0-9]", "_", deployment.name)
    return text if text[0].isalpha() else f"endpoint_{text}"
