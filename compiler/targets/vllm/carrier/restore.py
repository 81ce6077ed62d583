"""Restoration of the cache of an artifact: once a host, verified before anything is unpacked.

The archive holds pickles and shared libraries, which run code when they are loaded. Therefore: the signature of the
manifest first (where a public key is given), then the sha256 of the archive against the manifest, and only then files.

A lock beside the root admits one process; the others wait and then find the mark. The mark is written last, so that an
interrupted restoration is repeated. Every file is written under another name and renamed.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
import tarfile
import time
from pathlib import Path, PurePosixPath
from typing import Any

ARCHIVE = "cache.tar.gz"
MANIFEST = "manifest.json"
MARK = "restored.json"
_BLOCK = 1 << 20


class Unrestorable(RuntimeError):
    """The cache of the artifact cannot be trusted, or not be written."""


def restore(artifact: Path, root: Path, record: Path, key: Path | None = None) -> dict[str, Any]:
    """Restore ARCHIVE of the folder `artifact` to `root`; the mark's content: digest, files, bytes, seconds.

    `record`: folder of lock and mark, outside `root`. `key`: PEM file of public keys, one of which must have signed.
    Raises Unrestorable, OSError.
    """
    began = time.monotonic()
    if key is not None:
        check_signature(artifact, key)
    expected = expected_digest(artifact)
    record.mkdir(parents=True, exist_ok=True)
    with (record / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = record / MARK
        if mark.is_file():
            found: dict[str, Any] = json.loads(mark.read_text())
            if found["digest"] == expected and root.is_dir():
                return found
            mark.unlink()
        archive = artifact / ARCHIVE
        actual = _sha256(archive)
        if actual != expected:
            raise Unrestorable(f"{archive}: expected {expected}, found {actual}")
        files, size = unpack(archive, root)
        found = {"digest": expected, "files": files, "bytes": size, "seconds": round(time.monotonic() - began, 3)}
        _replace(mark, (json.dumps(found, sort_keys=True) + "\n").encode())
    return found


def expected_digest(artifact: Path) -> str:
    """Digest of the archive by the manifest. Raises Unrestorable."""
    try:
        manifest = json.loads((artifact / MANIFEST).read_bytes())
        return next(str(file["digest"]) for file in manifest["files"] if file["path"] == ARCHIVE)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise Unrestorable(f"{artifact / MANIFEST} does not name {ARCHIVE}: {error!r}") from None


def check_signature(artifact: Path, key: Path) -> None:
    """Check that a key of the PEM file `key` signed the manifest (artifact/sign.py). Raises Unrestorable."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise Unrestorable("a signature is required, and the package `cryptography` is missing here") from None
    manifest, signatures = artifact / MANIFEST, artifact / f"{MANIFEST}.sig"
    try:
        data, lines = manifest.read_bytes(), signatures.read_bytes().split()
        pem = key.read_bytes()
    except OSError as error:
        raise Unrestorable(f"a signature is required: {error}") from None
    end = b"-----END PUBLIC KEY-----"
    for block in (part + end for part in pem.split(end)[:-1]):
        public = load_pem_public_key(block.strip())
        for line in lines:
            try:
                if isinstance(public, Ed25519PublicKey):
                    public.verify(base64.b64decode(line, validate=True), data)
                    return
            except (InvalidSignature, ValueError):
                continue
    raise Unrestorable(f"{manifest} is not signed by {key}")


def unpack(archive: Path, root: Path) -> tuple[int, int]:
    """Number and bytes of the files unpacked to `root`. Raises Unrestorable for a member that is no file inside."""
    files = size = 0
    root.mkdir(parents=True, exist_ok=True)
    made: set[Path] = set()
    with tarfile.open(archive, "r|gz") as opened:
        for member in opened:
            path = PurePosixPath(member.name)
            content = opened.extractfile(member) if member.isreg() else None
            if content is None or path.is_absolute() or ".." in path.parts:
                raise Unrestorable(f"{archive}: unexpected member `{member.name}`")
            target = root / path
            if target.parent not in made:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(target.parent)
            part = target.with_name(f".{target.name}.part")
            with part.open("wb") as out:
                shutil.copyfileobj(content, out, _BLOCK)
            part.chmod(member.mode & 0o755)
            part.replace(target)
            files, size = files + 1, size + member.size
    return files, size


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
