"""Artifact in S3 that is deployed: its manifest, whether all files are there, and the report of its prewarm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.manifest import MANIFEST, Manifest, parse_manifest
from compiler.deploy.prewarm import REPORT
from compiler.deploy.time_limits import parse_prewarm
from compiler.errors import ArtifactError, IncompatibleError, NotFoundError, UsageError
from compiler.registry.resolve import resolve
from compiler.storage.objects import open_store

if TYPE_CHECKING:
    from compiler.storage.objects.types import ObjectStore


@dataclass(frozen=True)
class DeployedArtifact:
    """An artifact in S3. `folder`: prefix of its files in the store, ending in `/`; `data`: bytes of its manifest."""

    store: ObjectStore
    folder: str
    data: bytes

    @property
    def prefix(self) -> str:
        """`s3://bucket/prefix/`."""
        return self.store.uri + self.folder

    @property
    def bucket(self) -> str:
        return self.prefix.split("/")[2]

    def manifest(self) -> Manifest:
        """Raises ArtifactError."""
        return parse_manifest(self.data, self.prefix + MANIFEST)

    def check_files(self, manifest: Manifest) -> None:
        """Raise ArtifactError if a file of the manifest is missing or has another size."""
        sizes = {item.key.removeprefix(self.folder): item.size for item in self.store.walk(self.folder)}
        lost = [
            f"{file.path}: {'missing' if (size := sizes.get(file.path)) is None else f'{size} bytes'}, "
            f"expected {file.size}"
            for file in manifest.files
            if sizes.get(file.path) != file.size
        ]
        if lost:
            raise ArtifactError(
                "\n".join(
                    [f"{len(lost)} file(s) below {self.prefix} differ from the manifest:", *map("  {}".format, lost)]
                ),
                hint="upload the artifact again",
            )

    def prewarm(self, file: Path | None, manifest: Manifest) -> dict[str, Any] | None:
        """Report of a prewarm of this artifact: that in `file`, or else the one in its folder; None without one.

        Raises UsageError if it cannot be read, is none, or is of another artifact.
        """
        if file is not None:
            try:
                return parse_prewarm(file.read_bytes(), str(file), manifest)
            except OSError as error:
                raise UsageError(
                    f"cannot read the report {file}: {error.strerror}", hint="name a prewarm.json"
                ) from None
        try:
            data = self.store.read(self.folder + REPORT)[0]
        except NotFoundError:
            return None
        return parse_prewarm(data, self.prefix + REPORT, manifest)


def find_artifact(artifact: str) -> DeployedArtifact:
    """Artifact of `s3://bucket/prefix/`, or of an address in a store, `s3://bucket/store/NAME@TAG`; its tag is resolved
    once.

    Raises UsageError (not in S3), ArtifactError (no manifest), IncompatibleError (no prefix to mount), StoreError.
    """
    if not artifact.startswith("s3://"):
        raise UsageError(
            f"expected an artifact in S3 (s3://bucket/store/NAME@TAG or s3://bucket/prefix/); found `{artifact}`",
            hint="`lmi-compile push` puts it there",
        )
    if artifact.endswith("/"):
        store = open_store(artifact)
        try:
            return DeployedArtifact(store, "", store.read(MANIFEST)[0])
        except NotFoundError:
            raise ArtifactError(
                f"{artifact}{MANIFEST} does not exist: expected an artifact below that prefix",
                hint=f"name the prefix to which the artifact's folder was uploaded; in a store, {artifact}NAME@TAG",
            ) from None
    found = resolve(artifact)
    if found.layout != "plain":
        raise IncompatibleError(
            f"{found.address} shares its files with others (layout `{found.layout}`): there is no prefix to mount",
            hint="push it with `--layout plain`",
        )
    return DeployedArtifact(found.store, found.manifest_key.removesuffix(MANIFEST), found.data)
