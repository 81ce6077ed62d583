"""A folder as an object store. Several processes may use it, and it may be on a network file system.

An object is written under a temporary name in `.partial/`, synced to disk, and renamed (or linked, if it must not
replace another). Uploads are files there too, each with a list of the parts that have arrived.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from zlib_ng.zlib_ng import crc32

from compiler.errors import NotFoundError, StoreError
from compiler.storage.files.disk import disk_full, sync_folder
from compiler.storage.objects.types import ANYTHING, NOTHING, Object, Unfinished, Upload, UploadPart, conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

_PARTIAL = ".partial"


class LocalStore:
    """Object store in a folder (see types.ObjectStore), which the first write makes."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.uri = f"file://{self._root}/"

    def head(self, key: str) -> Object | None:
        try:
            found = (self._root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _object(key, found)

    def read(self, key: str) -> tuple[bytes, str]:
        with self._reading(key) as file:
            found = os.fstat(file)
            data = b""
            while piece := os.pread(file, found.st_size - len(data), len(data)):
                data += piece
        return data, _object(key, found).etag

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        done = 0
        with self._reading(key) as file:
            while done < len(buffer):
                count = os.preadv(file, [buffer[done:]], start + done)
                if count == 0:
                    raise StoreError(
                        f"{self.uri}{key}: expected {start + len(buffer)} bytes or more, it ends at {start + done}",
                        hint="push the artifact again with `--repair`",
                    )
                done += count

    def put(self, key: str, data: bytes, over: str = ANYTHING) -> Object:
        with self._writing(key) as (part, target), self._errors(key):
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                written = os.fstat(file.fileno())
            if over == ANYTHING:
                _put_in(target, lambda: part.replace(target))
            elif over == NOTHING:
                try:
                    _put_in(target, lambda: os.link(part, target))
                except FileExistsError:
                    raise conflict(self.uri + key) from None
            else:
                with self._locked():
                    there = self.head(key)
                    if there is None or there.etag != over:
                        raise conflict(self.uri + key)
                    part.replace(target)
            with suppress(FileNotFoundError):  # deleted already
                sync_folder(target.parent)
            return _object(key, written)

    def walk(self, prefix: str) -> Iterator[Object]:
        folder = self._root / prefix.rpartition("/")[0]
        names = sorted(str(path.relative_to(self._root)) for path in folder.rglob("*") if path.is_file())
        for name in names:
            if name.startswith(prefix) and not name.startswith(_PARTIAL):
                found = self.head(name)
                if found is not None:
                    yield found

    def children(self, folder: str) -> tuple[list[str], list[Object]]:
        here = self._root / folder
        paths = sorted(path for path in here.iterdir() if path.name != _PARTIAL) if here.is_dir() else []
        found = [self.head(folder + path.name) for path in paths if path.is_file()]
        return [path.name for path in paths if path.is_dir()], [item for item in found if item is not None]

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._errors(key):
                (self._root / key).unlink(missing_ok=True)
                with suppress(OSError):  # not empty
                    for folder in (self._root / key).parents:
                        if folder == self._root:
                            break
                        folder.rmdir()

    def begin(self, key: str, part_size: int) -> Upload:
        upload = Upload(key, secrets.token_hex(8), part_size)
        with self._errors(key):
            self._partial.mkdir(parents=True, exist_ok=True)
            self._data(upload).touch(exist_ok=False)
            self._list(upload).write_text(json.dumps({"key": key, "part_size": part_size}) + "\n")
        return upload

    def send(self, upload: Upload, number: int, data: bytes) -> UploadPart:
        crc = f"{crc32(data):08x}"
        part = UploadPart(number, len(data), crc, crc)
        with self._errors(upload.key, len(data)):
            file = os.open(self._data(upload), os.O_WRONLY | os.O_CLOEXEC)
            try:
                done, view = 0, memoryview(data)
                while done < len(data):
                    done += os.pwrite(file, view[done:], (number - 1) * upload.part_size + done)
            finally:
                os.close(file)
            _append(self._list(upload), [number, len(data), part.crc32])
        return part

    def sent(self, upload: Upload) -> list[UploadPart] | None:
        try:
            lines = self._list(upload).read_text().splitlines()[1:]
        except FileNotFoundError:
            return None
        parts: dict[int, UploadPart] = {}
        for line in lines:
            with suppress(ValueError):  # cut short by a kill
                number, size, crc = json.loads(line)
                parts[number] = UploadPart(number, size, crc, crc)
        return [parts[number] for number in sorted(parts)]

    def finish(self, upload: Upload, parts: Sequence[UploadPart]) -> None:
        data, target = self._data(upload), self._root / upload.key
        with self._errors(upload.key):
            with data.open("r+b") as file:
                file.truncate(sum(part.size for part in parts))
                os.fsync(file.fileno())
            data.chmod(0o444)
            _put_in(target, lambda: data.replace(target))
            sync_folder(target.parent)
            self._list(upload).unlink(missing_ok=True)

    def abort(self, upload: Upload | Unfinished) -> None:
        with self._errors(upload.key):
            self._data(upload).unlink(missing_ok=True)
            self._list(upload).unlink(missing_ok=True)

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        for path in sorted(self._partial.glob("*.upload")):
            with suppress(FileNotFoundError, ValueError, KeyError, IndexError):
                key = json.loads(path.read_text().splitlines()[0])["key"]
                if key.startswith(prefix):
                    yield Unfinished(key, path.stem, path.stat().st_mtime)

    @property
    def _partial(self) -> Path:
        return self._root / _PARTIAL

    def _data(self, upload: Upload | Unfinished) -> Path:
        return self._partial / f"{upload.id}.data"

    def _list(self, upload: Upload | Unfinished) -> Path:
        return self._partial / f"{upload.id}.upload"

    @contextmanager
    def _reading(self, key: str) -> Iterator[int]:
        try:
            file = os.open(self._root / key, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFoundError(
                f"{self.uri}{key}: no such object", hint="list the artifacts that are there with `lmi-compile ls`"
            ) from None
        except OSError as error:
            raise _store_error(self.uri + key, error) from error
        try:
            yield file
        except OSError as error:
            raise _store_error(self.uri + key, error) from error
        finally:
            os.close(file)

    @contextmanager
    def _writing(self, key: str) -> Iterator[tuple[Path, Path]]:
        """Temporary path, removed afterwards, and final path of an object."""
        target = self._root / key
        part = self._partial / f"{secrets.token_hex(8)}.put"
        with self._errors(key):
            self._partial.mkdir(parents=True, exist_ok=True)
        try:
            yield part, target
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock of the folder: makes compare-and-replace atomic among all its users."""
        with (self._partial / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _errors(self, key: str, needed: int = 0) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise disk_full(self._root / key, needed, shutil.disk_usage(self._root).free) from error
            raise _store_error(self.uri + key, error) from error


_FULL = (errno.ENOSPC, errno.EDQUOT)


def _put_in(target: Path, move: Callable[[], object]) -> None:
    """Move a file to `target`, whose folder a `delete` of its last object may remove at any moment."""
    for _ in range(100):
        with suppress(FileExistsError, FileNotFoundError):  # it, or a folder around it, may be vanishing
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            move()
        except FileNotFoundError:
            continue
        return
    move()


def _append(path: Path, line: object) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


def _object(key: str, found: os.stat_result) -> Object:
    return Object(key, found.st_size, f'"{found.st_ino:x}-{found.st_mtime_ns:x}"', found.st_mtime)


def _store_error(uri: str, error: OSError) -> StoreError:
    return StoreError(f"{uri}: {error.strerror or error}", hint="check the folder, its disk and its permissions")
