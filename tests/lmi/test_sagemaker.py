"""The bodies against botocore's own description of the service: names, types, ranges, patterns."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import UsageError
from compiler.lmi.components import create_inference_component, update_inference_component
from compiler.lmi.images import TRTLLM, image_uri
from compiler.lmi.sagemaker import (
    CopyResources,
    Deployment,
    create_endpoint,
    create_endpoint_config,
    create_model,
    endpoint_name,
    update_endpoint,
)
from compiler.storage.files.digest import digest_bytes

MODEL = botocore.session.get_session().get_service_model("sagemaker")
DEPLOYMENT = Deployment(
    name="mixtral-tp8",
    content=digest_bytes(b"manifest"),
    prefix="s3://models/mixtral/tp8/",
    image=image_uri(TRTLLM[0, 30].tag, "us-east-1"),
    role="arn:aws:iam::123456789012:role/endpoints",
    instance_type="ml.p4d.24xlarge",
    environment={"OPTION_OUTPUT_FORMATTER": "jsonlines"},
    tags={"team": "search"},
    ami="al2-ami-sagemaker-inference-gpu-3-1",
)
COPIES = replace(DEPLOYMENT, copies=2, resources=CopyResources(4, None, 200_000), volume_gb=100)
BODIES = {
    "CreateModel": create_model,
    "CreateEndpointConfig": create_endpoint_config,
    "CreateEndpoint": create_endpoint,
    "UpdateEndpoint": update_endpoint,
    "CreateInferenceComponent": create_inference_component,
    "UpdateInferenceComponent": update_inference_component,
}


def _wrong(value: Any, shape: Any, path: str = "") -> list[str]:
    """Texts that break the pattern or the set of their shape, which botocore leaves to the server."""
    if shape.type_name == "structure":
        return [w for key, v in value.items() for w in _wrong(v, shape.members[key], f"{path}.{key}")]
    if shape.type_name == "list":
        return [w for v in value for w in _wrong(v, shape.member, path)]
    if shape.type_name == "map":
        return [
            w for kv in value.items() for v, s in zip(kv, (shape.key, shape.value), strict=True) for w in _wrong(v, s)
        ]
    pattern, words = shape.metadata.get("pattern"), shape.metadata.get("enum")
    if words and value not in words:
        return [f"{path}: {value} is not in the set"]
    # Python spells the classes of Unicode letters otherwise; tags are the only place that has them.
    if pattern and "\\p{" not in pattern and not re.fullmatch(pattern, value):
        return [f"{path}: {value} does not match {pattern}"]
    return []


DEPLOYMENTS = (
    DEPLOYMENT,
    COPIES,
    replace(DEPLOYMENT, environment={}, tags={}, ami=""),
    replace(COPIES, resources=CopyResources(None, 8, 128), tags={}, count=3),
)


@pytest.mark.parametrize(
    ("operation", "deployment"),
    [(name, one) for name in BODIES for one in DEPLOYMENTS if one.copies or "Component" not in name],
)
def test_the_service_takes_the_bodies(operation: str, deployment: Deployment) -> None:
    body = BODIES[operation](deployment)
    shape = MODEL.operation_model(operation).input_shape
    assert ParamValidator().validate(body, shape).generate_report() == ""
    assert _wrong(body, shape) == []


def test_the_bodies_name_each_other() -> None:
    config = create_endpoint_config(DEPLOYMENT)
    assert config["ProductionVariants"][0]["ModelName"] == create_model(DEPLOYMENT)["ModelName"]
    assert create_endpoint(DEPLOYMENT)["EndpointConfigName"] == config["EndpointConfigName"]


def test_the_artifact_is_mounted_as_it_is() -> None:
    body = create_model(DEPLOYMENT)
    assert body["PrimaryContainer"]["ModelDataSource"]["S3DataSource"] == {
        "S3Uri": "s3://models/mixtral/tp8/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }
    assert body["EnableNetworkIsolation"] is True


def test_of_one_name_there_is_one_content() -> None:
    names = {
        DEPLOYMENT.model_name,
        replace(DEPLOYMENT, content=digest_bytes(b"other")).model_name,
        replace(DEPLOYMENT, instance_type="ml.p4de.24xlarge").model_name,
        replace(DEPLOYMENT, environment={}).model_name,
    }
    assert len(names) == 4
    assert replace(DEPLOYMENT).model_name == DEPLOYMENT.model_name


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "mixtral tp8"}, "endpoint's name"),
        ({"name": "-mixtral"}, "endpoint's name"),
        ({"name": "m" * 60}, "at most 63"),
        ({"prefix": "s3://models/mixtral/tp8"}, "s3://bucket/prefix/"),
        ({"prefix": "s3://models/"}, "s3://bucket/prefix/"),
        ({"role": "endpoints"}, "an ARN such as"),
        ({"startup_seconds": 30}, "start-up takes 60 to 3600"),
        ({"download_seconds": 7200}, "download takes 60 to 3600"),
        ({"count": 0}, "at least one instance"),
        ({"copies": 2}, "a copy has resources of its own"),
        ({"environment": {f"K{i}": "v" for i in range(101)}}, "at most 100 variables"),
        ({"environment": {"K": "v" * 1025}}, "at most 1024 characters"),
        ({"environment": {"OPTION_MODEL_ID": "other"}}, "another model than the artifact"),
        ({"environment": {"HF_MODEL_ID": "other"}}, "another model than the artifact"),
    ],
)
def test_what_the_service_would_refuse_later(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        replace(DEPLOYMENT, **changed)


@given(st.text(max_size=80))
def test_any_text_makes_a_name(text: str) -> None:
    assert replace(DEPLOYMENT, name=endpoint_name(text)).model_name
