"""Engine `sagemaker`: a Training or Processing job for each cell.

[fleet.sagemaker]
role = "arn:aws:iam::123456789012:role/builder"
region = "us-east-1"            # default: boto3's
kind = "training"               # or "processing"
spot = true                     # training only; the stage cache is the checkpoint, so that a new machine resumes
volume-gib = 500                # default: the disk that the plan needs, and 30
subnets = ["subnet-1"]          # with `security-groups`

A cell names `image` (in ECR, with lmi-compile) and `instance`. /opt/ml/model, which SageMaker would pack and upload at
the end of a training job, is emptied before that: artifacts are in the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.deploy.aws import calling, session
from compiler.errors import UsageError
from compiler.lmi.instances import full_name
from compiler.matrix.executors import JobState, checked_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.matrix.cell import Cell, CellResources

_DEFAULT_HOURS = 24
_LARGEST_ARGUMENT = 256
_CHECKPOINT = "/opt/ml/checkpoints"
_MODEL = "/opt/ml/model"
_OPTIONS: dict[str, type] = {
    "role": str, "region": str, "kind": str, "spot": bool, "volume-gib": int, "subnets": list, "security-groups": list,
}  # fmt: skip
_QUEUED = ("Starting", "Pending", "LaunchingMLInstances", "PreparingTrainingStack", "Downloading",
           "DownloadingTrainingImage")  # fmt: skip
_REQUESTS = {
    "training": ("create_training_job", "describe_training_job", "stop_training_job", "TrainingJob"),
    "processing": ("create_processing_job", "describe_processing_job", "stop_processing_job", "ProcessingJob"),
}


class SageMakerJobs:
    """Training or Processing jobs; see Executor."""

    name = "sagemaker"
    interval = 15.0
    capacity: CellResources | None = None
    shares_disk = False
    largest_array = 1

    def __init__(self, options: Mapping[str, Any], client: Any) -> None:
        self._options, self.client = options, client
        self._create, self._describe, self._stop, self._noun = _REQUESTS[str(options.get("kind", "training"))]

    def submit(self, cell: Cell) -> str:
        request = training_request if self._noun == "TrainingJob" else processing_request
        facts = request(cell, self._options)
        with calling(f"{self._noun} of {cell.name}"):
            getattr(self.client, self._create)(**facts)
        return str(facts[f"{self._noun}Name"])

    def poll(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        return {job: self._state(job) for job in ids}

    def fetch(self, job: str) -> str:
        facts = self._facts(job)
        return str(facts.get("FailureReason") or facts.get("ExitMessage") or "")

    def cancel(self, job: str) -> None:
        if self._state(job).state == "ended":
            return
        with calling(job):
            getattr(self.client, self._stop)(**{f"{self._noun}Name": job})

    def _state(self, job: str) -> JobState:
        facts = self._facts(job)
        status = facts[f"{self._noun}Status"]
        if status in ("InProgress", "Stopping"):
            return JobState("queued" if facts.get("SecondaryStatus") in _QUEUED else "running")
        reason = facts.get("FailureReason") or facts.get("ExitMessage") or ""
        return JobState("ended", f"{status}: {reason}" if reason else str(status))

    def _facts(self, job: str) -> Mapping[str, Any]:
        with calling(job):
            found: Mapping[str, Any] = getattr(self.client, self._describe)(**{f"{self._noun}Name": job})
        return found


def make(options: Mapping[str, Any], output: object) -> SageMakerJobs:
    """Raises UsageError."""
    del output
    check_job_options("sagemaker", options, _OPTIONS)
    client = session(str(options.get("region", ""))).client("sagemaker")
    return SageMakerJobs(options, client)


def check_job_options(name: str, options: Mapping[str, Any], known: Mapping[str, type]) -> None:
    """Check [fleet.NAME] of an engine that runs SageMaker jobs. Raises UsageError."""
    checked_options(name, options, known)
    if "role" not in options:
        raise UsageError(f"[fleet.{name}] needs `role`", hint="the ARN of a role that may write to the store")
    if options.get("kind", "training") not in _REQUESTS:
        kinds = " or ".join(f"`{kind}`" for kind in _REQUESTS)
        raise UsageError(f"[fleet.{name}] kind: expected {kinds}, found `{options['kind']}`", hint="leave it out")


def training_request(cell: Cell, options: Mapping[str, Any]) -> dict[str, Any]:
    """Request CreateTrainingJob. Raises UsageError where the cell lacks an image or an instance type."""
    seconds, spot = _seconds(cell), bool(options.get("spot"))
    checkpoint = f"{cell.ledger}checkpoints/{cell.key.removeprefix('sha256:')[:16]}/"
    return {
        "TrainingJobName": job_name(cell),
        "AlgorithmSpecification": {
            "TrainingImage": _image(cell),
            "TrainingInputMode": "File",
            "ContainerEntrypoint": _entrypoint(cell),
        },
        "RoleArn": str(options["role"]),
        "OutputDataConfig": {"S3OutputPath": f"{cell.ledger}output/"},
        "ResourceConfig": _machine(cell, options),
        "StoppingCondition": {
            "MaxRuntimeInSeconds": seconds,
            **({"MaxWaitTimeInSeconds": 2 * seconds} if spot else {}),
        },
        "EnableManagedSpotTraining": spot,
        **({"CheckpointConfig": {"S3Uri": checkpoint, "LocalPath": _CHECKPOINT}} if spot else {}),
        **({"VpcConfig": _network(options)} if options.get("subnets") else {}),
        "Environment": {"LMI_COMPILE_EMPTY": _MODEL, **({"LMI_COMPILE_CACHE": _CHECKPOINT} if spot else {})},
        "Tags": [{"Key": "lmi-compile:build", "Value": cell.name}],
    }


def processing_request(cell: Cell, options: Mapping[str, Any]) -> dict[str, Any]:
    """Request CreateProcessingJob. Raises UsageError where the cell lacks an image or an instance type."""
    return {
        "ProcessingJobName": job_name(cell),
        "AppSpecification": {"ImageUri": _image(cell), "ContainerEntrypoint": _entrypoint(cell)},
        "RoleArn": str(options["role"]),
        "ProcessingResources": {"ClusterConfig": _machine(cell, options)},
        "StoppingCondition": {"MaxRuntimeInSeconds": _seconds(cell)},
        **({"NetworkConfig": {"VpcConfig": _network(options)}} if options.get("subnets") else {}),
        "Tags": [{"Key": "lmi-compile:build", "Value": cell.name}],
    }


def job_name(cell: Cell) -> str:
    """Name of the job of an attempt: at most 63 letters, digits and `-`."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in cell.name)[:40].strip("-")
    return f"{plain}-{cell.token}"


def _entrypoint(cell: Cell) -> list[str]:
    long = [word for word in cell.argv if len(word) > _LARGEST_ARGUMENT]
    if long:
        raise UsageError(
            f"SageMaker takes arguments of at most {_LARGEST_ARGUMENT} characters; found {len(long[0])}: {long[0]}",
            hint="use a store with a shorter prefix",
        )
    return list(cell.argv)


def _image(cell: Cell) -> str:
    if not cell.image:
        raise UsageError(f"`{cell.name}` has no image", hint='set `image = "..."` in [fleet], or in its [build.fleet]')
    return cell.image


def _machine(cell: Cell, options: Mapping[str, Any]) -> dict[str, Any]:
    if not cell.resources.instance:
        raise UsageError(
            f"`{cell.name}` has no instance type",
            hint='set `instance = "ml.g5.12xlarge"` in [fleet], or in its [build.fleet]',
        )
    volume = int(options.get("volume-gib", 30 + -(-cell.resources.disk // 2**30)))
    return {"InstanceType": full_name(cell.resources.instance), "InstanceCount": 1, "VolumeSizeInGB": volume}


def _network(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"Subnets": list(options["subnets"]), "SecurityGroupIds": list(options.get("security-groups", []))}


def _seconds(cell: Cell) -> int:
    """Time limit of the job: a little longer than the cell's own, which is reported better."""
    return int(cell.timeout) + 600 if cell.timeout else _DEFAULT_HOURS * 3600
