"""Definitions of endpoints: templates by cfn-lint, Terraform's by the argument names that its pages document."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from compiler.errors import UsageError
from compiler.lmi.components import create_inference_component
from compiler.lmi.definitions import cloudformation, emit, snake, terraform
from compiler.lmi.sagemaker import CopyResources, Deployment
from tests.lmi.test_sagemaker import DEPLOYMENT

COPIES = replace(DEPLOYMENT, copies=2, resources=CopyResources(4, None, 200_000), volume_gb=100)
ARGUMENTS = {
    "aws_sagemaker_model": "name primary_container execution_role_arn enable_network_isolation tags",
    "primary_container": "image environment model_data_source",
    "model_data_source": "s3_data_source",
    "s3_data_source": "s3_uri s3_data_type compression_type",
    "aws_sagemaker_endpoint_configuration": "name production_variants execution_role_arn tags",
    "production_variants": "variant_name model_name instance_type initial_instance_count routing_config "
    "volume_size_in_gb inference_ami_version container_startup_health_check_timeout_in_seconds "
    "model_data_download_timeout_in_seconds",
    "routing_config": "routing_strategy",
    "aws_sagemaker_endpoint": "name endpoint_config_name tags",
    "aws_sagemaker_inference_component": "name endpoint_name variant_name specification runtime_config tags",
    "specification": "model_name startup_parameters compute_resource_requirements",
    "startup_parameters": "container_startup_health_check_timeout_in_seconds model_data_download_timeout_in_seconds",
    "compute_resource_requirements": "min_memory_required_in_mb number_of_accelerator_devices_required "
    "number_of_cpu_cores_required",
    "runtime_config": "copy_count",
    "lifecycle": "create_before_destroy",
}
"""Arguments that the pages of the AWS provider document, of those that we may use."""


@pytest.mark.parametrize("deployment", [DEPLOYMENT, COPIES, replace(DEPLOYMENT, environment={}, tags={}, ami="")])
def test_cfn_lint_finds_nothing_in_the_template(deployment: Deployment) -> None:
    from cfnlint.api import lint
    from cfnlint.core import get_rules

    text = emit(deployment, "cloudformation", "us-east-1")
    rules = get_rules([], [], ["I", "W", "E"])
    assert [str(match) for match in lint(text, rules, ["us-east-1"])] == []
    broken = json.loads(text)
    broken["Resources"]["Model"]["Properties"]["Imagee"] = 1
    assert lint(json.dumps(broken), rules, ["us-east-1"]), "the linter sees a wrong name"


def _unknown(value: Any, place: str) -> list[str]:
    if isinstance(value, list):
        return [found for one in value for found in _unknown(one, place)]
    if not isinstance(value, dict) or place in ("environment", "tags"):
        return []
    known = ARGUMENTS[place].split()
    return [f"{place}.{key}" for key in value if key not in known and key != "lifecycle"] + [
        found for key, one in value.items() for found in _unknown(one, key)
    ]


@pytest.mark.parametrize("deployment", [DEPLOYMENT, COPIES])
def test_terraform_gets_documented_arguments_only(deployment: Deployment) -> None:
    for kind, resources in json.loads(emit(deployment, "terraform", "eu-west-1"))["resource"].items():
        for arguments in resources.values():
            assert _unknown(arguments, kind) == []


def test_resources_refer_to_each_other_by_name() -> None:
    found = terraform(COPIES, "eu-west-1")
    assert found["provider"]["aws"]["region"] == "eu-west-1"
    config = found["resource"]["aws_sagemaker_endpoint_configuration"]["mixtral_tp8"]
    assert "model_name" not in config["production_variants"][0]
    endpoint = found["resource"]["aws_sagemaker_endpoint"]["mixtral_tp8"]
    assert endpoint["endpoint_config_name"] == "${aws_sagemaker_endpoint_configuration.mixtral_tp8.name}"
    component = found["resource"]["aws_sagemaker_inference_component"]["mixtral_tp8"]
    assert component["endpoint_name"] == "${aws_sagemaker_endpoint.mixtral_tp8.name}"
    assert component["specification"]["model_name"] == "${aws_sagemaker_model.mixtral_tp8.name}"
    assert component["runtime_config"] == {"copy_count": 2}
    template = cloudformation(DEPLOYMENT)["Resources"]
    assert template["Endpoint"]["Properties"]["EndpointConfigName"] == {
        "Fn::GetAtt": ["EndpointConfig", "EndpointConfigName"]
    }


def test_the_definitions_have_the_values_of_the_requests() -> None:
    container = terraform(DEPLOYMENT, "us-east-1")["resource"]["aws_sagemaker_model"]["mixtral_tp8"][
        "primary_container"
    ]
    assert container["environment"] == {"OPTION_OUTPUT_FORMATTER": "jsonlines"}
    assert container["model_data_source"]["s3_data_source"]["s3_uri"] == "s3://models/mixtral/tp8/"
    template = cloudformation(COPIES)["Resources"]["InferenceComponent"]["Properties"]
    requirements = create_inference_component(COPIES)["Specification"]["ComputeResourceRequirements"]
    assert template["Specification"]["ComputeResourceRequirements"] == requirements


def test_names_in_snake_case() -> None:
    names = ("S3Uri", "VolumeSizeInGB", "ContainerStartupHealthCheckTimeoutInSeconds", "ExecutionRoleArn")
    assert [snake(name) for name in names] == [
        "s3_uri", "volume_size_in_gb", "container_startup_health_check_timeout_in_seconds", "execution_role_arn"
    ]  # fmt: skip


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="`--emit` is terraform or cloudformation; found `pulumi`"):
        emit(DEPLOYMENT, "pulumi", "us-east-1")
