"""AWS Step Functions: a state machine that runs the cells as jobs of AWS Batch, and fails at its end if any did.

[fleet.batch]: `queue` and `definition` (job queue and definition; the definition names the image).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compiler.errors import UsageError
from compiler.matrix.emit import ATTEMPTS, SCRIPT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.matrix.emit import EmitOptions, EmittedCell


def text(cells: Sequence[EmittedCell], options: EmitOptions) -> str:
    own = options.tables.get("batch", {})
    missing = [name for name in ("queue", "definition") if name not in own]
    if missing:
        raise UsageError(
            f"`--as step-functions` needs `{missing[0]}` in [fleet.batch]",
            hint="name the job queue and the job definition of AWS Batch there",
        )
    machine = {
        "Comment": "lmi-compile matrix",
        "StartAt": "Cells",
        "States": {
            "Cells": {"Type": "Pass", "Result": [_item(cell, options) for cell in cells], "Next": "Build"},
            "Build": {
                "Type": "Map",
                "MaxConcurrency": options.parallel,
                "ItemProcessor": {
                    "ProcessorConfig": {"Mode": "INLINE"},
                    "StartAt": "Cell",
                    "States": {"Cell": _task(own, options), "Failed": {"Type": "Pass", "End": True}},
                },
                "Next": "Failures",
            },
            "Failures": {"Type": "Pass", "Parameters": {"failed.$": "$[?(@.error)].name"}, "Next": "Any failure"},
            "Any failure": {
                "Type": "Choice",
                "Choices": [{"Variable": "$.failed[0]", "IsPresent": True, "Next": "Failed builds"}],
                "Default": "All built",
            },
            "Failed builds": {"Type": "Fail", "Error": "FailedBuilds", "Cause": "see the state Failures"},
            "All built": {"Type": "Succeed"},
        },
    }
    return json.dumps(machine, indent=2) + "\n"


def _task(own: Any, options: EmitOptions) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::batch:submitJob.sync",
        "TimeoutSeconds": options.timeout,
        "Parameters": {
            "JobName.$": "$.id",
            "JobQueue": str(own["queue"]),
            "JobDefinition": str(own["definition"]),
            "RetryStrategy": {"Attempts": ATTEMPTS},
            "ContainerOverrides": {
                "Command": ["/bin/sh", "-c", SCRIPT],
                "Environment.$": "$.environment",
                "ResourceRequirements.$": "$.resources",
            },
        },
        "Retry": [
            {
                "ErrorEquals": ["Batch.AWSBatchException", "Batch.ServerException"],
                "IntervalSeconds": 10,
                "MaxAttempts": ATTEMPTS,
                "BackoffRate": 2,
            }
        ],
        "ResultPath": "$.job",
        "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Failed"}],
        "End": True,
    }


def _item(cell: EmittedCell, options: EmitOptions) -> dict[str, Any]:
    needs = cell.resources
    amounts = {
        "VCPU": f"{needs.cpus:g}" if needs.cpus else "",
        "MEMORY": str(-(-needs.memory // 2**20)) if needs.memory else "",
        "GPU": str(needs.gpus) if needs.gpus else "",
    }
    return {
        "id": cell.id,
        "name": cell.name,
        "environment": [{"Name": "BUILDS", "Value": cell.builds}, {"Name": "STORE", "Value": options.store}],
        "resources": [{"Type": kind, "Value": amount} for kind, amount in amounts.items() if amount],
    }
