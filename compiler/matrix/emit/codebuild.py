"""AWS CodeBuild: a buildspec of a batch build, with one build for each cell.

[fleet.codebuild]: `compute-type`, such as BUILD_GENERAL1_2XLARGE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.errors import RefusedError
from compiler.matrix.emit import SCRIPT, yaml_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.matrix.emit import EmitOptions, EmittedCell

_BUILDS_MOST = 100
"""Builds of a batch that CodeBuild accepts."""


def text(cells: Sequence[EmittedCell], options: EmitOptions) -> str:
    """Raises RefusedError for more builds than a batch may have."""
    if len(cells) > _BUILDS_MOST:
        raise RefusedError(
            f"a batch of CodeBuild has at most {_BUILDS_MOST} builds; found {len(cells)}",
            hint="emit parts of them with `--only`, or choose another engine",
        )
    spec = {
        "version": 0.2,
        "batch": {"fast-fail": False, "build-list": [_build(cell, options) for cell in cells]},
        "env": {"shell": "bash"},
        "phases": {"build": {"commands": [f"{SCRIPT.replace('exec ', '')} --junit report.xml"]}},
        "reports": {"matrix": {"files": ["report.xml"], "file-format": "JUNITXML"}},
    }
    return yaml_text([spec])


def _build(cell: EmittedCell, options: EmitOptions) -> dict[str, Any]:
    own = options.tables.get("codebuild", {})
    image = {"image": cell.image} if cell.image else {}
    compute = {"compute-type": str(own["compute-type"])} if "compute-type" in own else {}
    variables = {"NAME": cell.name, "BUILDS": cell.builds, "STORE": options.store}
    return {
        "identifier": cell.id.replace("-", "_"),
        "env": {**compute, **image, "variables": variables},
        "ignore-failure": True,
    }
