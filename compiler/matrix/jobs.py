"""Jobs of engines that build cells now: DIR/.matrix/jobs/NAME.json. A driver that was killed finds its jobs in them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.storage.files.digest import Digest


@dataclass(frozen=True)
class MatrixJob:
    """Job `id` of the engine `on`. `token`: its attempt at the cell with `key`. `began`: seconds since the epoch;
    `failures`: classes of the attempts before it; `spent`: seconds that these took. `canceled`: when it was, 0 if it
    was not.
    """

    name: str
    on: str
    id: str
    token: str
    key: Digest
    began: float
    failures: tuple[str, ...] = ()
    spent: float = 0.0
    canceled: float = 0.0


def write_job(output: Path, job: MatrixJob) -> None:
    """Write the record of a job, atomically. Raises OSError."""
    file = _file(output, job.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps(asdict(job), indent=2, sort_keys=True) + "\n")
    part.replace(file)


def read_job(output: Path, name: str) -> MatrixJob | None:
    """Job that builds a cell now; None without a record, or where it cannot be read."""
    try:
        found = json.loads(_file(output, name).read_bytes())
        facts = {field.name: found[field.name] for field in fields(MatrixJob)}
        return MatrixJob(**{**facts, "failures": tuple(facts["failures"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_job(output: Path, name: str) -> None:
    _file(output, name).unlink(missing_ok=True)


def _file(output: Path, name: str) -> Path:
    return output / ".matrix" / "jobs" / f"{name}.json"
