"""Differences of two artifacts: model, options, toolchain, files, numerics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compiler.registry.resolve import manifest_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from compiler.artifact.manifest import Manifest


@dataclass(frozen=True)
class Change:
    """A changed `field` of the manifest (`toolchain.torch`, `files.weights/rank0.safetensors`). None: absent."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Difference:
    """Differences of two artifacts. `same`: files in both; `nbytes_changed`: bytes of files only in the second."""

    changes: tuple[Change, ...]
    same: int
    nbytes_changed: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def diff(one: str, other: str) -> Difference:
    """Compare two artifacts, each a folder or an address in a store (address.py).

    Raises UsageError, NotFoundError, StoreError, ArtifactError.
    """
    return difference(manifest_of(one), manifest_of(other))


def difference(before: Manifest, after: Manifest) -> Difference:
    """Compare two manifests."""
    fields = [dict(_leaves(manifest.model_dump(mode="json", exclude={"files"}))) for manifest in (before, after)]
    files = [{f"files.{file.path}": (file.digest, file.size) for file in m.files} for m in (before, after)]
    digests = {file.digest for file in before.files}
    changes = [*_changes(*fields), *_changes(*files)]
    return Difference(
        tuple(changes),
        sum(1 for path, value in files[1].items() if files[0].get(path) == value),
        sum(file.size for file in after.files if file.digest not in digests),
    )


def _changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Change]:
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            yield Change(name, one.get(name), other.get(name))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested mappings with their dotted names; lists are values."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value
