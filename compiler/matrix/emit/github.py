"""GitHub Actions: a workflow with one job for each cell.

[fleet.github]: `runs-on` (label, or list of labels, of the runners), `role` and `region` (AWS, through OpenID Connect).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.matrix.emit import SCRIPT, yaml_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.matrix.emit import EmitOptions, EmittedCell

_MATRIX_MOST = 256
"""Jobs of a matrix that GitHub accepts; further cells come in further jobs."""


def text(cells: Sequence[EmittedCell], options: EmitOptions) -> str:
    parts = [cells[first : first + _MATRIX_MOST] for first in range(0, len(cells), _MATRIX_MOST)]
    jobs = {f"build-{number}": _job(part, options) for number, part in enumerate(parts, 1)}
    workflow = {
        "name": "lmi-compile matrix",
        "on": {"workflow_dispatch": {}},
        "permissions": {"contents": "read", "id-token": "write"},
        "jobs": jobs,
    }
    return yaml_text([workflow])


def _job(cells: Sequence[EmittedCell], options: EmitOptions) -> dict[str, Any]:
    own = options.tables.get("github", {})
    include = [
        {"name": cell.name, "builds": cell.builds, **({"image": cell.image} if cell.image else {})} for cell in cells
    ]
    limit = {"max-parallel": options.parallel} if options.parallel else {}
    container = {"container": "${{ matrix.image }}"} if all(cell.image for cell in cells) else {}
    return {
        "name": "${{ matrix.name }}",
        "strategy": {"fail-fast": False, **limit, "matrix": {"include": include}},
        "runs-on": own.get("runs-on", "ubuntu-24.04"),
        **container,
        "timeout-minutes": max(options.timeout // 60, 1),
        "steps": [
            *_credentials(own),
            {
                "run": f"{SCRIPT} --junit report.xml",
                "shell": "bash",
                "env": {"BUILDS": "${{ matrix.builds }}", "STORE": options.store},
            },
            {
                "if": "always()",
                "uses": "actions/upload-artifact@v4",
                "with": {
                    "name": "report-${{ matrix.name }}",
                    "path": "report.xml\nartifacts/.matrix\n",
                    "include-hidden-files": True,
                    "if-no-files-found": "ignore",
                },
            },
        ],
    }


def _credentials(own: Any) -> list[dict[str, Any]]:
    if "role" not in own:
        return []
    given = {"role-to-assume": str(own["role"]), "aws-region": str(own.get("region", "us-east-1"))}
    return [{"uses": "aws-actions/configure-aws-credentials@v4", "with": given}]
