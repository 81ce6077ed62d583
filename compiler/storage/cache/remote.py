"""Stage cache in an object store that a team shares, behind each machine's own.

    .cache/stages/<stage>/<key>.json     result.json of an entry (stages.py), written last
    .cache/blobs/sha256/<hex>            files of the entries, equal files stored once

Names are digests, so that writers cannot harm each other; every file is verified as it arrives. A failing store is a
warning and a miss, never a failed build. Entries are removed only by a lifecycle rule of the bucket on `.cache/`; an
entry that lacks a file is a miss.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from compiler.errors import ArtifactError, ConflictError, NotFoundError, StoreError
from compiler.storage.files.digest import Descriptor, digest_json
from compiler.storage.files.folder import remove_folder
from compiler.storage.objects.download import Incoming, download_files
from compiler.storage.objects.flow import THREADS
from compiler.storage.objects.types import NOTHING
from compiler.storage.objects.upload import Outgoing, upload_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from compiler.storage.objects.types import ObjectStore


class RemoteCache:
    """Entries in `store`. `warn` receives a line for each failure; `journal`: folder of unfinished uploads."""

    def __init__(self, store: ObjectStore, journal: Path, *, warn: Callable[[str], None]) -> None:
        self._store, self._journal, self._warn = store, journal, warn

    def fetch(self, stage: str, key: str, folder: Path) -> bytes | None:
        """Download the files of an entry into the empty `folder`. Returns result.json's bytes; None for a miss."""
        try:
            text, _ = self._store.read(_entry(stage, key))
        except NotFoundError:
            return None
        except StoreError as error:
            self._warn(f"the shared cache is not used: {error.message}")
            return None
        try:
            files = _files(text)
            incoming = [Incoming(_blob(file), folder / file.path, file.digest, file.size) for file in files]
            download_files(self._store, incoming, threads=THREADS)
        except (StoreError, ArtifactError, ValueError, KeyError, TypeError) as error:
            self._warn(f"the entry {self._store.uri}{_entry(stage, key)} is damaged and not used: {error}")
            return None
        return text

    def publish(self, stage: str, key: str, folder: Path, text: bytes) -> None:
        """Share the entry whose files are in `folder` and whose result.json is `text`."""
        try:
            files = {_blob(file): file for file in _files(text)}
            missing = [
                Outgoing(folder / file.path, blob, file.digest, file.size)
                for blob, file in files.items()
                if (there := self._store.head(blob)) is None or there.size != file.size
            ]
            journal = self._journal / f"{stage}-{key}"
            upload_files(self._store, missing, journal, threads=THREADS)
            remove_folder(journal)
            if self._store.head(_entry(stage, key)) is None:
                self._store.put(_entry(stage, key), text, NOTHING)
        except ConflictError:
            pass  # another writer published the same entry
        except (StoreError, ArtifactError) as error:
            self._warn(f"not put into the shared cache: {error.message}")


def _files(text: bytes) -> Sequence[Descriptor]:
    """Files of a result.json. Raises ValueError, KeyError, TypeError if it is damaged or a path leaves its folder."""
    parsed = json.loads(text)
    if parsed["digest"] != digest_json(parsed["result"]):
        raise ValueError("it does not have the digest that it states")
    files = [Descriptor(**fields) for fields in parsed["result"]["files"]]
    for file in files:
        if file.path.startswith("/") or ".." in file.path.split("/"):
            raise ValueError(f"{file.path} leaves the folder")
    return files


def _entry(stage: str, key: str) -> str:
    return f".cache/stages/{stage}/{key}.json"


def _blob(file: Descriptor) -> str:
    return f".cache/blobs/sha256/{file.digest.removeprefix('sha256:')}"
