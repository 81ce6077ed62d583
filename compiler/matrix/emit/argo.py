"""Argo Workflows: one Workflow with a task for each cell; tasks do not depend on each other.

[fleet.argo]: `namespace`, `service-account`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.matrix.emit import ATTEMPTS, FINAL_CODES, with_image, yaml_text
from compiler.matrix.emit.kubernetes import container, node_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.matrix.emit import EmitOptions, EmittedCell


def text(cells: Sequence[EmittedCell], options: EmitOptions) -> str:
    with_image(cells, "argo")
    own = options.tables.get("argo", {})
    namespace = {"namespace": str(own["namespace"])} if "namespace" in own else {}
    account = {"serviceAccountName": str(own["service-account"])} if "service-account" in own else {}
    tasks = [{"name": cell.id, "template": cell.id} for cell in cells]
    workflow = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": "lmi-compile-matrix-", **namespace},
        "spec": {
            "entrypoint": "matrix",
            **account,
            **({"parallelism": options.parallel} if options.parallel else {}),
            "templates": [
                {"name": "matrix", "failFast": False, "dag": {"failFast": False, "tasks": tasks}},
                *(_template(cell, options) for cell in cells),
            ],
        },
    }
    return yaml_text([workflow])


def _template(cell: EmittedCell, options: EmitOptions) -> dict[str, Any]:
    final = ", ".join(str(code) for code in FINAL_CODES)
    return {
        "name": cell.id,
        "activeDeadlineSeconds": options.timeout,
        "retryStrategy": {
            "limit": ATTEMPTS - 1,
            "retryPolicy": "Always",
            "expression": f"asInt(lastRetry.exitCode) not in [{final}]",
        },
        **node_of(cell.resources),
        "container": container(cell, options),
    }
