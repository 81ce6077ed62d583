"""AWS on this machine (moto) with an artifact in a bucket, and SageMaker's client stubbed by botocore."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto.server import ThreadedMotoServer

from benchmarks.testbed.artifacts import CONTENT, manifest
from compiler.deploy import aws
from tests.deploy.deployments import BUCKET, ROLE_NAME, TRUST


@pytest.fixture(scope="session")
def aws_here() -> Iterator[str]:
    """URL of a server that answers as AWS."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(aws_here: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The bucket BUCKET with the artifact of `manifest()` at PREFIX, and the role ROLE."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws_here)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id-of-the-tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    iam = boto3.client("iam")
    if ROLE_NAME not in [role["RoleName"] for role in iam.list_roles()["Roles"]]:
        iam.create_role(RoleName=ROLE_NAME, AssumeRolePolicyDocument=json.dumps(TRUST))
    found = boto3.resource("s3").Bucket(BUCKET)
    found.create()
    found.objects.all().delete()
    for path, data in {**CONTENT, "manifest.json": manifest().to_bytes()}.items():
        found.put_object(Key=f"tiny/v1/{path}", Body=data)
    yield found
    found.meta.client.close()


@pytest.fixture
def stubbed(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """SageMaker's client, which answers what the test queues and checks requests and answers against the service."""
    client, session = boto3.client("sagemaker"), boto3.Session()

    class Session:
        region_name = session.region_name
        get_available_partitions = session.get_available_partitions
        get_available_regions = session.get_available_regions

        def client(self, service: str) -> Any:
            return client if service == "sagemaker" else boto3.client(service)

    monkeypatch.setattr(aws, "session", lambda _: Session())
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()
