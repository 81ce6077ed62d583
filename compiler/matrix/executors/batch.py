"""Engine `batch`: array jobs of AWS Batch for cells that begin together and need equal machines, else a job for each;
or service jobs, which queue SageMaker Training jobs.

[fleet.batch]
queue = "gpu"
definition = "lmi-compile"      # job definition, with the image; not for service jobs
region = "us-east-1"            # default: boto3's
service = true                  # SubmitServiceJob; then `role` and the other keys of [fleet.sagemaker], too
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compiler.deploy.aws import calling, session
from compiler.errors import UsageError
from compiler.matrix.executors import JobState, checked_options
from compiler.matrix.executors.sagemaker import job_name, training_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.matrix.cell import Cell, CellResources

_OPTIONS: dict[str, type] = {
    "queue": str, "definition": str, "region": str, "service": bool, "role": str, "spot": bool, "volume-gib": int,
    "subnets": list, "security-groups": list,
}  # fmt: skip
_ENDED = ("SUCCEEDED", "FAILED")
_RUNNING = ("STARTING", "RUNNING")
_AT_ONCE = 100
"""Jobs that one DescribeJobs takes."""
_LARGEST_ARRAY = 10_000


class BatchJobs:
    """Container jobs; see Executor."""

    name = "batch"
    interval = 15.0
    capacity: CellResources | None = None
    shares_disk = False
    largest_array = _LARGEST_ARRAY

    def __init__(self, options: Mapping[str, Any], client: Any) -> None:
        self._options, self.client = options, client

    def submit(self, cell: Cell) -> str:
        with calling(f"the job of {cell.name}"):
            return str(self.client.submit_job(**self._request(cell))["jobId"])

    def submit_array(self, cell: Cell, size: int) -> list[str]:
        with calling(f"the array job of {cell.name}"):
            answer = self.client.submit_job(**self._request(cell), arrayProperties={"size": size})
        return [f"{answer['jobId']}:{index}" for index in range(size)]

    def _request(self, cell: Cell) -> dict[str, Any]:
        needs = cell.resources
        amounts = {"VCPU": f"{needs.cpus:g}" if needs.cpus else "", "GPU": str(needs.gpus) if needs.gpus else ""}
        amounts["MEMORY"] = str(-(-needs.memory // 2**20)) if needs.memory else ""
        wanted = [{"type": kind, "value": amount} for kind, amount in amounts.items() if amount]
        return {
            "jobName": job_name(cell),
            "jobQueue": str(self._options["queue"]),
            "jobDefinition": str(self._options["definition"]),
            "containerOverrides": {"command": list(cell.argv), "resourceRequirements": wanted},
            **({"timeout": {"attemptDurationSeconds": int(cell.timeout) + 600}} if cell.timeout else {}),
            "tags": {"lmi-compile:build": cell.name},
        }

    def poll(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        found = {job: JobState("ended", "Batch knows no such job any more") for job in ids}
        for first in range(0, len(ids), _AT_ONCE):
            with calling("DescribeJobs"):
                answer = self.client.describe_jobs(jobs=list(ids[first : first + _AT_ONCE]))
            found |= {job["jobId"]: _state(job) for job in answer["jobs"]}
        return found

    def fetch(self, job: str) -> str:
        return self.poll([job])[job].reason

    def cancel(self, job: str) -> None:
        with calling(job):
            self.client.terminate_job(jobId=job, reason="canceled by lmi-compile")


class ServiceJobs(BatchJobs):
    """Service jobs: SageMaker Training jobs in a queue of AWS Batch."""

    largest_array = 1

    def submit(self, cell: Cell) -> str:
        request = training_request(cell, self._options)
        with calling(f"the service job of {cell.name}"):
            answer = self.client.submit_service_job(
                jobName=request["TrainingJobName"],
                jobQueue=str(self._options["queue"]),
                serviceJobType="SAGEMAKER_TRAINING",
                serviceRequestPayload=json.dumps(request),
                clientToken=cell.token,
                tags={"lmi-compile:build": cell.name},
            )
        return str(answer["jobId"])

    def poll(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        found = {}
        for job in ids:
            with calling(job):
                found[job] = _state(self.client.describe_service_job(jobId=job))
        return found

    def cancel(self, job: str) -> None:
        with calling(job):
            self.client.terminate_service_job(jobId=job, reason="canceled by lmi-compile")


def make(options: Mapping[str, Any], output: object) -> BatchJobs:
    """Raises UsageError."""
    del output
    checked_options("batch", options, _OPTIONS)
    needed = ("queue", "role") if options.get("service") else ("queue", "definition")
    if missing := [name for name in needed if name not in options]:
        raise UsageError(f"[fleet.batch] needs `{missing[0]}`", hint=f"it takes {', '.join(_OPTIONS)}")
    client = session(str(options.get("region", ""))).client("batch")
    return (ServiceJobs if options.get("service") else BatchJobs)(options, client)


def _state(job: Mapping[str, Any]) -> JobState:
    status = job["status"]
    if status in _ENDED:
        reason = job.get("statusReason") or job.get("container", {}).get("reason") or ""
        return JobState("ended", f"{status}: {reason}" if reason else str(status))
    return JobState("running" if status in _RUNNING else "queued")
