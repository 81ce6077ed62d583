"""Engines `sagemaker` and `batch`, on moto's server: requests, life cycles and states. The test plays the machines: it
runs the command that a job was created with.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from botocore.validate import ParamValidator

from compiler.errors import UsageError
from compiler.matrix.cell import Cell, CellResources
from compiler.matrix.executors import batch, open_executor, sagemaker
from compiler.matrix.ledger import Ledger, ledger_uri
from compiler.matrix.run import EngineChoice, build
from compiler.matrix.state import MatrixRow, log_file
from compiler.matrix.task import FleetLimits
from compiler.matrix.worker import work
from compiler.registry.resolve import resolve
from compiler.report import Silent
from tests.matrix.programs import Matrix, entry
from tests.stores import moto_endpoint, moto_store, own_cache

__all__ = ["moto_endpoint", "moto_store", "own_cache"]

ROLE = "arn:aws:iam::123456789012:role/builder"
CELL = Cell(
    name="Big.model_tp8", words=("--model", "m"), key="sha256:" + "ab" * 32, inputs=(), version="1", options=(),
    ledger="s3://bucket/engines/.matrix/", store="s3://bucket/engines/", image="img:1", token="0123456789abcdef",
    resources=CellResources(cpus=8, memory=3 << 30, disk=100 << 30, gpus=4, instance="g5.12xlarge"), timeout=3600,
)  # fmt: skip


class Machines:
    """Runs the commands of created jobs; the first `lost` of them never begin."""

    def __init__(self, lost: int = 0) -> None:
        self.lost, self.requests = lost, list[dict[str, Any]]()

    def begin(self, params: dict[str, Any], **_: Any) -> None:
        self.requests.append(params)
        if len(self.requests) <= self.lost:
            return
        places = ("AlgorithmSpecification", "AppSpecification", "containerOverrides")
        (place,) = [params[name] for name in places if name in params]
        command = place.get("ContainerEntrypoint") or place["command"]
        for index in range(params.get("arrayProperties", {}).get("size", 1)):
            known = {**params.get("Environment", {}), "AWS_BATCH_JOB_ARRAY_INDEX": str(index)}
            subprocess.run(command, env={**os.environ, **known}, check=False)


def connected(monkeypatch: pytest.MonkeyPatch, module: Any, operation: str, machines: Machines) -> None:
    """Let the machines see the requests of an engine's client, and let it poll often."""
    known = module.session

    def session(region: str) -> Any:
        found = known(region)
        found.events.register(f"provide-client-params.{operation}", machines.begin)
        return found

    monkeypatch.setattr(module, "session", session)
    monkeypatch.setattr(sagemaker.SageMakerJobs, "interval", 0.1)
    monkeypatch.setattr(batch.BatchJobs, "interval", 0.1)


def run(made: Matrix, store: str, on: str, options: dict[str, Any]) -> MatrixRow:
    fleet = {"command": [sys.executable, str(made.script)], "image": "img:1", "instance": "ml.g5.2xlarge"}
    place = replace(made.place, store=store)
    wanted = replace(entry("a"), fleet=tuple(fleet.items()))
    (row,) = build([wanted], place, "1", Silent(), EngineChoice(on, FleetLimits(stale=2.0), {on: options}))
    return row


@pytest.fixture
def made(tmp_path: Path) -> Matrix:
    return Matrix(tmp_path)


@pytest.mark.parametrize(
    ("kind", "operation"),
    [("training", "sagemaker.CreateTrainingJob"), ("processing", "sagemaker.CreateProcessingJob")],
)
def test_a_cell_is_built_by_a_job_of_sagemaker_and_published(
    made: Matrix, moto_store: str, monkeypatch: pytest.MonkeyPatch, kind: str, operation: str
) -> None:
    machines = Machines(lost=1)
    connected(monkeypatch, sagemaker, operation, machines)
    row = run(made, moto_store, "sagemaker", {"role": ROLE, "kind": kind})
    assert (row.state, row.attempts, row.instance) == ("built", 2, "ml.g5.2xlarge")
    assert resolve(f"{moto_store}a@key-{str(row.key)[7:23]}").digest == row.digest
    assert "push" in log_file(made.place.output, "a").read_text()  # fetched from the ledger
    assert made.builds("a") == 1
    names = [one.get("TrainingJobName") or one["ProcessingJobName"] for one in machines.requests]
    assert len(set(names)) == 2
    again = run(made, moto_store, "sagemaker", {"role": ROLE, "kind": kind})
    assert (again.state, len(machines.requests)) == ("current", 2)


@pytest.fixture
def batch_queue(moto_store: str, moto_endpoint: str) -> dict[str, Any]:
    """Options of engine `batch`, for a queue on moto whose jobs end at once."""
    connection = http.client.HTTPConnection(moto_endpoint.removeprefix("http://"))
    connection.request("POST", "/moto-api/config", json.dumps({"batch": {"use_docker": False}}))
    assert connection.getresponse().status in (200, 201)
    connection.close()
    client = boto3.client("batch")
    role = boto3.client("iam").create_role(RoleName=secrets.token_hex(4), AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    environment = client.create_compute_environment(
        computeEnvironmentName=secrets.token_hex(4), type="UNMANAGED", state="ENABLED", serviceRole=role
    )["computeEnvironmentArn"]
    order = [{"order": 1, "computeEnvironment": environment}]
    queue = f"gpu-{secrets.token_hex(4)}"
    client.create_job_queue(jobQueueName=queue, state="ENABLED", priority=1, computeEnvironmentOrder=order)
    properties = {"image": "img:1", "vcpus": 1, "memory": 512, "command": ["true"]}
    client.register_job_definition(jobDefinitionName="lmi", type="container", containerProperties=properties)
    return {"queue": queue, "definition": "lmi"}


def test_a_cell_is_built_by_a_job_of_batch(
    made: Matrix, moto_store: str, batch_queue: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = Machines()
    connected(monkeypatch, batch, "batch.SubmitJob", machines)
    row = run(made, moto_store, "batch", batch_queue)
    assert (row.state, row.attempts) == ("built", 1)
    assert machines.requests[0]["containerOverrides"]["command"][-3:-2] == ["cell"]


def test_cells_of_equal_machines_are_one_array_job_and_lost_ones_are_begun_alone(
    made: Matrix, moto_store: str, batch_queue: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = Machines()
    connected(monkeypatch, batch, "batch.SubmitJob", machines)
    (made.folder / "once-b").write_text("143")
    fleet = {"command": [sys.executable, str(made.script)], "memory-gib": 2}
    others = {**fleet, "memory-gib": 8}
    entries = [replace(entry(name), fleet=tuple(fleet.items())) for name in ("a", "b", "c")]
    entries.append(replace(entry("large"), fleet=tuple(others.items())))
    engine = EngineChoice("batch", FleetLimits(stale=2.0), {"batch": batch_queue})
    rows = build(entries, replace(made.place, store=moto_store), "1", Silent(), engine, jobs=4)
    assert [(row.name, row.state, row.attempts) for row in rows] == [
        ("a", "built", 1), ("b", "built", 2), ("c", "built", 1), ("large", "built", 1)
    ]  # fmt: skip
    assert [one.get("arrayProperties") for one in machines.requests] == [{"size": 3}, None, None]
    assert [made.builds(name) for name in ("a", "b", "c", "large")] == [1, 2, 1, 1]


def stubbed(monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]) -> tuple[Any, Stubber]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    executor: Any = open_executor(name, options, Path())
    stubber = Stubber(executor.client)
    stubber.activate()
    return executor, stubber


def test_a_spot_job_keeps_its_cache_and_empties_the_output_folder() -> None:
    request = sagemaker.training_request(CELL, {"role": ROLE, "spot": True})
    shape = boto3.client("sagemaker", region_name="us-east-1").meta.service_model.operation_model("CreateTrainingJob")
    report = ParamValidator().validate(request, shape.input_shape)
    assert not report.has_errors(), report.generate_report()
    assert request["TrainingJobName"] == "Big-model-tp8-0123456789abcdef"
    assert request["CheckpointConfig"]["S3Uri"] == "s3://bucket/engines/.matrix/checkpoints/" + "ab" * 8 + "/"
    assert request["Environment"] == {"LMI_COMPILE_CACHE": "/opt/ml/checkpoints", "LMI_COMPILE_EMPTY": "/opt/ml/model"}
    assert request["ResourceConfig"] == {"InstanceType": "ml.g5.12xlarge", "InstanceCount": 1, "VolumeSizeInGB": 130}
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 4200, "MaxWaitTimeInSeconds": 8400}


@pytest.mark.parametrize(("name", "state"), [("a", "built"), ("fails", "failed")])
def test_the_output_folder_of_a_training_job_is_empty_at_its_end(
    made: Matrix, monkeypatch: pytest.MonkeyPatch, name: str, state: str
) -> None:
    output, kept = made.folder / "model", made.folder / "kept"
    (output / "folder").mkdir(parents=True)
    (output / "folder/file").touch()
    kept.mkdir()
    (kept / "file").touch()
    (output / "link").symlink_to(kept)
    monkeypatch.setenv("LMI_COMPILE_EMPTY", str(output))
    ledger = Ledger(ledger_uri(made.folder, None))
    ledger.write_cell(
        replace(CELL, name=name, words=("--name", name), ledger=ledger.uri, store="", command=made.program)
    )
    assert work(ledger, CELL.token).state == state
    assert list(output.iterdir()) == []
    assert (kept / "file").exists()


def test_states_of_training_jobs_and_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, stubber = stubbed(monkeypatch, "sagemaker", {"role": ROLE})
    told = [
        ("InProgress", "Starting", "", "queued", ""),
        ("InProgress", "Training", "", "running", ""),
        ("Failed", "Failed", "ClientError: no image", "ended", "Failed: ClientError: no image"),
        ("Stopped", "MaxWaitTimeExceeded", "", "ended", "Stopped"),
    ]
    answer: dict[str, Any] = {}
    for status, secondary, reason, *_ in told:
        answer = {"TrainingJobName": "j", "TrainingJobArn": "arn:aws:x", "ModelArtifacts": {"S3ModelArtifacts":
        "s3://b/m"},
                  "TrainingJobStatus": status, "SecondaryStatus": secondary, "StoppingCondition": {},
                  "AlgorithmSpecification": {"TrainingInputMode": "File"}, "CreationTime": 0,
                  "ResourceConfig": {"VolumeSizeInGB": 1}}  # fmt: skip
        if reason:
            answer["FailureReason"] = reason
        stubber.add_response("describe_training_job", answer, {"TrainingJobName": "j"})
    found = [executor.poll(["j"])["j"] for _ in told]
    assert [(one.state, one.reason) for one in found] == [(state, reason) for *_, state, reason in told]
    stubber.add_response(
        "describe_training_job",
        {**answer, "TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"},
        {"TrainingJobName": "j"},
    )
    stubber.add_response("stop_training_job", {}, {"TrainingJobName": "j"})
    executor.cancel("j")
    stubber.assert_no_pending_responses()


def test_a_service_job_queues_a_training_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto has no service jobs: the requests and answers are those of botocore's model."""
    executor, stubber = stubbed(monkeypatch, "batch", {"queue": "q", "service": True, "role": ROLE})
    payload = sagemaker.training_request(CELL, {"role": ROLE})
    wanted = {"jobName": payload["TrainingJobName"], "jobQueue": "q", "serviceJobType": "SAGEMAKER_TRAINING",
              "serviceRequestPayload": json.dumps(payload), "clientToken": CELL.token,
              "tags": {"lmi-compile:build": CELL.name}}  # fmt: skip
    stubber.add_response("submit_service_job", {"jobId": "1", "jobName": "j", "jobArn": "a"}, wanted)
    assert executor.submit(CELL) == "1"
    known = {"jobId": "1", "jobName": "j", "jobQueue": "q", "serviceJobType": "SAGEMAKER_TRAINING", "startedAt": 0}
    for status in ("SCHEDULED", "RUNNING", "FAILED"):
        stubber.add_response("describe_service_job", {**known, "status": status}, {"jobId": "1"})
    assert [executor.poll(["1"])["1"].state for _ in range(3)] == ["queued", "running", "ended"]
    stubber.add_response("terminate_service_job", {}, {"jobId": "1", "reason": "canceled by lmi-compile"})
    executor.cancel("1")
    stubber.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sagemaker", {}, "needs `role`"),
        ("sagemaker", {"role": ROLE, "kind": "x"}, "expected `training` or `processing`, found `x`"),
        ("sagemaker", {"role": ROLE, "spots": True}, "no key `spots`"),
        ("batch", {"queue": "q"}, "needs `definition`"),
        ("batch", {"queue": 3}, "`queue`: expected str, found 3"),
    ],
)
def test_wrong_options_are_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_executor(name, options, Path())


def test_a_cell_without_an_image_or_a_type_is_refused_before_any_request() -> None:
    with pytest.raises(UsageError, match="has no image"):
        sagemaker.training_request(replace(CELL, image=""), {"role": ROLE})
    with pytest.raises(UsageError, match="has no instance type"):
        sagemaker.processing_request(replace(CELL, resources=CellResources()), {"role": ROLE})
    with pytest.raises(UsageError, match="at most 256 characters; found 300"):
        sagemaker.training_request(replace(CELL, ledger="x" * 300), {"role": ROLE})
