"""Cache key of each build, and whether its artifact exists already.

The cache key is the digest of the version of lmi-compile, the options, the digest of the plan (config, layout, shapes)
and the source's identity. In a store the artifact has the tag `key-<16 digits>`; local artifacts have a record:

    DIR/NAME/                   the artifact
    DIR/.matrix/NAME.json       record of its last build
    DIR/.matrix/NAME.log        log of that build
    DIR/.matrix/jobs/NAME.json  job of an engine that builds it, until it has ended (jobs.py)
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from compiler.artifact.manifest import load_manifest
from compiler.errors import ArtifactError, NotFoundError
from compiler.storage.files.digest import Digest, digest_json

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.matrix.cell import Cell
    from compiler.matrix.file import BuildEntry

_ONLY_HOW = frozenset({"cache", "jobs", "max-memory", "rehash", "timeout"})
"""Options of a build that are not part of its cache key: the result does not depend on them."""

State = Literal["new", "changed", "current", "built", "failed", "refused", "canceled", "claimed"]
"""State of a build. Before it runs: `new` (never built), `changed` (since the last build), `current`, `refused` (cannot
be planned); after: `built`, `failed`, `canceled`. `claimed`: another machine builds it now.
"""


@dataclass(frozen=True)
class MatrixRow:
    """One build. `key`: None where it could not be planned. `step`: command that failed; `error`: its message.
    `failure`: its class (failures.py). `attempts`: number of times it was begun. `seconds`: of all of them; `instance`:
    type of the machine, where it was requested; `host`: the machine that built it (machine.host).
    """

    name: str
    state: State
    key: Digest | None = None
    digest: Digest | None = None
    step: str = ""
    error: str = ""
    exit_code: int = 0
    seconds: float = 0.0
    failure: str = ""
    attempts: int = 0
    instance: str = ""
    host: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def todo(self) -> bool:
        return self.state in ("new", "changed", "failed")


def key_of(entry: BuildEntry | Cell, plan: str, source: str, version: str) -> Digest:
    """Cache key of an entry. `plan`, `source`: digests that `lmi-compile build --until plan --json` prints."""
    options = [option for option in entry.options if option[0] not in _ONLY_HOW]
    return digest_json({"version": version, "options": options, "plan": plan, "source": source})


def tag_of(key: Digest) -> str:
    return f"key-{key.removeprefix('sha256:')[:16]}"


def address_of(store: str, name: str, key: Digest) -> str:
    return f"{store.rstrip('/')}/{name}@{tag_of(key)}"


def record_file(output: Path, name: str) -> Path:
    return output / ".matrix" / f"{name}.json"


def log_file(output: Path, name: str) -> Path:
    return output / ".matrix" / f"{name}.log"


def row_of(found: dict[str, Any]) -> MatrixRow:
    """Row from its JSON, of an earlier release too. Raises TypeError."""
    known = [field.name for field in fields(MatrixRow)]
    return MatrixRow(**{name: found[name] for name in known if name in found})


def write_record(output: Path, row: MatrixRow) -> None:
    """Write the record of a build, atomically. Raises OSError."""
    file = record_file(output, row.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps(row.to_json(), indent=2, sort_keys=True) + "\n")
    part.replace(file)


def read_record(output: Path, name: str) -> MatrixRow | None:
    """Row of the last build; None without a record, or where it cannot be read."""
    try:
        return row_of(json.loads(record_file(output, name).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def look(entry: BuildEntry | Cell, key: Digest, output: Path, store: str | None) -> MatrixRow:
    """Row of a planned build. With a store, only published artifacts are current. Raises StoreError."""
    last = read_record(output, entry.name)
    known = last is not None and last.state == "built"
    if store is not None:
        digest = _published(address_of(store, entry.name, key))
    else:
        digest = last.digest if known and last is not None and last.key == key and _is_there(output, last) else None
    if digest is not None:
        return MatrixRow(entry.name, "current", key, digest)
    return MatrixRow(entry.name, "changed" if known else "new", key)


def _is_there(output: Path, last: MatrixRow) -> bool:
    try:
        return load_manifest(output / last.name).digest == last.digest
    except ArtifactError:
        return False


def _published(address: str) -> Digest | None:
    from compiler.registry.resolve import resolve

    try:
        return resolve(address).digest
    except NotFoundError:
        return None
