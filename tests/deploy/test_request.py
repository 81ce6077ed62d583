"""Preparation of deployments: everything that is refused before the first request to SageMaker."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from benchmarks.testbed.artifacts import manifest, write
from compiler.artifact.manifest import Device
from compiler.deploy.request import DeployRequest, prepare
from compiler.errors import ArtifactError, IncompatibleError, StoreError, UsageError
from tests.deploy.deployments import PREFIX, REQUEST, ROLE, TRUST, engines

pytestmark = pytest.mark.usefixtures("bucket")


def test_engines_go_to_their_own_image_and_kind_of_gpu(bucket: Any, stubbed: Stubber) -> None:
    bucket.put_object(Key="tiny/v1/manifest.json", Body=engines().to_bytes())
    deployment = prepare(DeployRequest(PREFIX, "g5.12xlarge", ROLE)).deployment
    assert deployment.instance_type == "ml.g5.12xlarge"
    assert deployment.image == (
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.30.0-tensorrtllm0.12.0-cu125"
    )
    assert deployment.ami == "al2023-ami-sagemaker-inference-gpu-4-1", "its driver runs CUDA 12.5"
    assert deployment.volume_gb == 0, "it has local disks"
    with pytest.raises(IncompatibleError, match=r"compute capability 8\.6; NVIDIA L4 of ml\.g6\.12xlarge has 8\.9"):
        prepare(DeployRequest(PREFIX, "ml.g6.12xlarge", ROLE))
    with pytest.raises(IncompatibleError, match=r"split over 2 devices; ml\.g5\.xlarge has 1") as caught:
        prepare(DeployRequest(PREFIX, "ml.g5.xlarge", ROLE))
    assert "ml.g5.12xlarge" in caught.value.hint
    with pytest.raises(IncompatibleError, match=r"the image has 0\.21\.0"):
        prepare(DeployRequest(PREFIX, "ml.g5.12xlarge", ROLE, image="0.33.0"))


def test_room_for_more_copies_is_reported(bucket: Any) -> None:
    bucket.put_object(Key="tiny/v1/manifest.json", Body=engines().to_bytes())
    prepared = prepare(DeployRequest(PREFIX, "ml.g5.12xlarge", ROLE))
    assert prepared.fit.copies == 2
    assert ["--copies auto" in text for text in prepared.warnings] == [True]


def test_the_cache_is_counted_too(bucket: Any) -> None:
    """Rank files of some bytes, and limits whose cache no GPU holds."""
    limits = manifest().limits.model_copy(update={"max_batch": 4096, "max_positions": 1 << 20})
    bucket.put_object(Key="tiny/v1/manifest.json", Body=engines().model_copy(update={"limits": limits}).to_bytes())
    with pytest.raises(IncompatibleError, match=r"of KV cache \(4096 rows of 1048576 tokens"):
        prepare(DeployRequest(PREFIX, "ml.g5.12xlarge", ROLE))


def test_an_artifact_of_a_store_is_deployed_by_its_name(tmp_path: Path) -> None:
    from compiler.registry.push import push

    folder = write(tmp_path / "artifact")
    pushed = push(folder, "s3://models/store/tiny@v1")
    deployment = prepare(replace(REQUEST, artifact="s3://models/store/tiny@v1")).deployment
    assert deployment.prefix == f"s3://models/store/tiny/{pushed.digest.removeprefix('sha256:')}/"
    assert deployment.content == pushed.digest
    push(folder, "s3://models/other/tiny@v1", layout="cas")
    with pytest.raises(IncompatibleError, match="no prefix to mount"):
        prepare(replace(REQUEST, artifact="s3://models/other/tiny@v1"))


def _cut(bucket: Any) -> None:
    bucket.put_object(Key="tiny/v1/weights/rank1.safetensors", Body=b"cut")


def _lose(bucket: Any) -> None:
    bucket.Object("tiny/v1/packages/attn.prefill.pt2").delete()


def _unmark(bucket: Any) -> None:
    bucket.Object("tiny/v1/manifest.json").delete()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_cut, r"rank1\.safetensors: 3 bytes, expected 300"),
        (_lose, r"attn\.prefill\.pt2: missing"),
        (_unmark, r"manifest\.json does not exist"),
    ],
)
def test_an_artifact_that_is_not_whole_asks_nothing_of_sagemaker(
    bucket: Any, stubbed: Stubber, change: Callable[[Any], None], said: str
) -> None:
    change(bucket)
    with pytest.raises(ArtifactError, match=said):
        prepare(REQUEST)


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"image": ""}, UsageError, "packed for no image"),
        ({"artifact": "artifacts/tiny"}, UsageError, r"expected an artifact in S3 .*; found `artifacts/tiny`"),
        ({"artifact": "s3://nowhere/tiny/"}, StoreError, "nowhere"),
        ({"instance_type": "ml.c99.huge"}, UsageError, r"no instance type called `ml\.c99\.huge`"),
        ({"instance_type": "ml.dl1.24xlarge"}, UsageError, "not in the table"),
        ({"instance_type": "ml.c7g.xlarge"}, IncompatibleError, "has processors of arm64"),
        ({"image": "0.30.0-tensorrtllm0.12.0-cu125"}, IncompatibleError, "another kind of artifact"),
        ({"image": "0.33.0-lmi15.0.0-cu128"}, IncompatibleError, "serves target `vllm`.*; this is another kind"),
        ({"image": "0.36.0-lmi18.0.0-cu128"}, IncompatibleError, "serves target `vllm`.*; this is another kind"),
        ({"image": "0.29.0-neuronx-sdk2.19.1"}, IncompatibleError, "serves target `neuron`; this is another kind"),
        (
            {"image": "763104351884.dkr.ecr.us-east-1.amazonaws.com/vllm:0.13-gpu-py312"},
            IncompatibleError,
            "serves target `vllm`.*; this is another kind",
        ),
        ({"ami": "al2-ami-9"}, UsageError, "no AMI version `al2-ami-9`"),
        ({"ami": "al2-ami-sagemaker-inference-gpu-2"}, UsageError, "the instance type has no accelerators"),
        ({"region": "us-esat-1"}, UsageError, "no region called `us-esat-1`"),
        ({"role": "endpoints"}, UsageError, "an ARN such as"),
        ({"role": "arn:aws:iam::123456789012:role/nobody"}, UsageError, "there is no role .*nobody"),
        ({"copies": "many"}, UsageError, "`--copies` is a number or `auto`; found `many`"),
        ({"copies": "999"}, UsageError, "`--copies 999`: 1 x ml.m5.xlarge has room for 2"),
        ({"startup_seconds": 7200}, UsageError, "start-up takes 60 to 3600"),
        ({"prewarm": Path("/nowhere/prewarm.json")}, UsageError, "cannot read the report"),
    ],
)  # fmt: skip
def test_requests_that_make_no_sense(changed: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        prepare(replace(REQUEST, **changed))


def test_without_a_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(UsageError, match="no AWS region"):
        prepare(REQUEST)


def test_a_bucket_in_another_region_is_refused(bucket: Any) -> None:
    elsewhere = boto3.resource("s3", region_name="eu-west-1").Bucket("models-in-europe")
    elsewhere.create(CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for item in bucket.objects.all():
        elsewhere.put_object(Key=item.key, Body=item.get()["Body"].read())
    asked = replace(REQUEST, artifact="s3://models-in-europe/tiny/v1/")
    with pytest.raises(
        IncompatibleError, match="`models-in-europe` is in eu-west-1; the endpoint would be in us-east-1"
    ):
        prepare(asked)
    assert prepare(replace(asked, region="eu-west-1")).warnings == ()


def test_a_role_that_sagemaker_cannot_assume_is_refused() -> None:
    iam = boto3.client("iam")
    statement = TRUST["Statement"][0] | {"Principal": {"Service": "ec2.amazonaws.com"}}
    role = iam.create_role(
        RoleName="machines", AssumeRolePolicyDocument=json.dumps(TRUST | {"Statement": [statement]})
    )["Role"]["Arn"]
    with pytest.raises(IncompatibleError, match=r"`machines` cannot be assumed by sagemaker\.amazonaws\.com"):
        prepare(replace(REQUEST, role=role))
    with pytest.raises(UsageError, match=f"has the ARN {ROLE}; found .*other/endpoints") as caught:
        prepare(replace(REQUEST, role=ROLE.replace("endpoints", "other/endpoints")))
    assert ROLE in caught.value.hint
    iam.delete_role(RoleName="machines")


def test_what_the_credentials_may_not_ask_is_a_warning(stubbed: Stubber, monkeypatch: pytest.MonkeyPatch) -> None:
    iam = boto3.client("iam")
    real = boto3.client
    monkeypatch.setattr(boto3, "client", lambda service: iam if service == "iam" else real(service))
    with Stubber(iam) as stubber:
        stubber.add_client_error("get_role", "AccessDenied", "not you")
        (warning,) = prepare(REQUEST).warnings
    assert "not checked whether SageMaker can assume the role `endpoints`" in warning
    assert "not you" in warning


def test_time_limits_come_from_the_prewarm_beside_the_artifact(bucket: Any, tmp_path: Path) -> None:
    found = prepare(REQUEST)
    assert (found.deployment.startup_seconds, found.deployment.download_seconds) == (1800, 300)
    report = {
        "digest": manifest().digest,
        "phases": [{"name": "verify", "seconds": 30.0, "nbytes": 1}, {"name": "answer", "seconds": 99.0, "nbytes": 0}],
        "answer": {"seconds_to_load": 50.0, "seconds_to_first_token": 0.25, "finish_reason": "length"},
    }
    bucket.put_object(Key="tiny/v1/prewarm.json", Body=json.dumps(report))
    found = prepare(REQUEST)
    assert found.deployment.startup_seconds == int(3 * 80.25 + 120)
    assert found.limits.first_token == 0.25
    assert prepare(replace(REQUEST, startup_seconds=600)).deployment.startup_seconds == 600
    file = tmp_path / "prewarm.json"
    file.write_text(json.dumps(report | {"digest": "sha256:0"}))
    with pytest.raises(UsageError, match="is of the artifact sha256:0; this one is sha256:"):
        prepare(replace(REQUEST, prewarm=file))
    file.write_text('{"answer": 3}')
    with pytest.raises(UsageError, match="no report of `lmi-compile prewarm`"):
        prepare(replace(REQUEST, prewarm=file))


def test_an_instance_without_disks_gets_a_volume_for_the_artifact() -> None:
    assert prepare(REQUEST).deployment.volume_gb == 31
    assert prepare(replace(REQUEST, instance_type="ml.m5d.xlarge")).deployment.volume_gb == 0


@pytest.mark.parametrize(
    ("image", "uri", "ami"),
    [
        (
            "djl-inference:0.36.0-lmi28.0.0-cu130",
            "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-lmi28.0.0-cu130",
            "al2023-ami-sagemaker-inference-gpu-4-1",
        ),
        (
            "vllm:server-sagemaker-cuda-v2.3",
            "763104351884.dkr.ecr.us-east-1.amazonaws.com/vllm:server-sagemaker-cuda-v2.3",
            "",
        ),
    ],
)
def test_shards_for_vllm_go_to_the_image_that_they_name(bucket: Any, image: str, uri: str, ami: str) -> None:
    from compiler.targets.vllm.section import Shards

    ranks = ("weights/rank0.safetensors", "weights/rank1.safetensors")
    section = Shards(version="0.32.0", image=image, format="sharded_state", files=ranks, compared="")
    made = manifest(target="vllm", device=Device(kind="cuda"), section=section)
    bucket.put_object(Key="tiny/v1/manifest.json", Body=made.to_bytes())
    deployment = prepare(DeployRequest(PREFIX, "ml.g5.12xlarge", ROLE, copies="auto")).deployment
    assert (deployment.image, deployment.ami, deployment.copies) == (uri, ami, 2)
    with pytest.raises(IncompatibleError, match="serves target `trtllm`; this is another kind"):
        prepare(DeployRequest(PREFIX, "ml.g5.12xlarge", ROLE, image="0.30.0-tensorrtllm0.12.0-cu125"))
