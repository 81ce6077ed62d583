"""Kubernetes: a Job for each cell (batch/v1).

A Job is begun again after lost nodes and failures that may pass, and not after the others (podFailurePolicy).
[fleet.kubernetes]: `namespace`, `service-account` (with the right to the store).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.matrix.emit import ATTEMPTS, FINAL_CODES, SCRIPT, with_image, yaml_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.matrix.cell import CellResources
    from compiler.matrix.emit import EmitOptions, EmittedCell

_NAME = "cell"


def text(cells: Sequence[EmittedCell], options: EmitOptions) -> str:
    with_image(cells, "kubernetes")
    return yaml_text([_job(cell, options) for cell in cells])


def _job(cell: EmittedCell, options: EmitOptions) -> dict[str, Any]:
    own = options.tables.get("kubernetes", {})
    namespace = {"namespace": str(own["namespace"])} if "namespace" in own else {}
    labels = {"app.kubernetes.io/name": "lmi-compile", "app.kubernetes.io/component": "matrix"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": cell.id, **namespace, "labels": labels, "annotations": {"lmi-compile/build": cell.name}},
        "spec": {
            "backoffLimit": ATTEMPTS - 1,
            "activeDeadlineSeconds": options.timeout,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": _NAME, "operator": "In", "values": list(FINAL_CODES)},
                    },
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": _pod(cell, options)},
        },
    }


def _pod(cell: EmittedCell, options: EmitOptions) -> dict[str, Any]:
    own = options.tables.get("kubernetes", {})
    account = {"serviceAccountName": str(own["service-account"])} if "service-account" in own else {}
    return {
        "restartPolicy": "Never",
        **account,
        **node_of(cell.resources),
        "containers": [{"name": _NAME, **container(cell, options), "workingDir": "/work",
                        "volumeMounts": [{"name": "work", "mountPath": "/work"}]}],
        "volumes": [{"name": "work", "emptyDir": {}}],
    }  # fmt: skip


def container(cell: EmittedCell, options: EmitOptions) -> dict[str, Any]:
    """Image, command, variables and resources of a cell's container; Argo takes the same."""
    found = {
        "image": cell.image,
        "command": ["/bin/sh", "-c", SCRIPT],
        "env": [{"name": "BUILDS", "value": cell.builds}, {"name": "STORE", "value": options.store}],
    }
    amounts = quantities(cell.resources)
    return {**found, "resources": {"requests": amounts, "limits": amounts}} if amounts else found


def quantities(needs: CellResources) -> dict[str, str]:
    """Resources in Kubernetes' names; those that are not known are left out."""
    amounts = {
        "cpu": f"{needs.cpus:g}" if needs.cpus else "",
        "memory": f"{-(-needs.memory // 2**20)}Mi" if needs.memory else "",
        "ephemeral-storage": f"{-(-needs.disk // 2**20)}Mi" if needs.disk else "",
        "nvidia.com/gpu": str(needs.gpus) if needs.gpus else "",
        "aws.amazon.com/neuroncore": str(needs.neuron) if needs.neuron else "",
    }
    return {name: amount for name, amount in amounts.items() if amount}


def node_of(needs: CellResources) -> dict[str, Any]:
    """Selector of the instance type. SageMaker's prefix is not EC2's."""
    instance = needs.instance.removeprefix("ml.")
    return {"nodeSelector": {"node.kubernetes.io/instance-type": instance}} if instance else {}
