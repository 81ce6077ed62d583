"""Resolve an address and check the signature, before any file but the manifest is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.artifact.manifest import MANIFEST
from compiler.artifact.sign import SIGNATURE, check_signature
from compiler.registry.resolve import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.registry.resolve import Resolved


def resolve_signed(uri: str, key: Path | None) -> Resolved:
    """Resolve an address; with `key`, require a signature by one of the public keys in that PEM file.

    Raises as `resolve`; SignatureError, UsageError (no such key).
    """
    found = resolve(uri)
    if key is not None:
        check_signature(found.data, _signatures(found), key, found.address)
    return found


def _signatures(found: Resolved) -> bytes | None:
    key = found.manifest_key + SIGNATURE.removeprefix(MANIFEST)
    return found.store.read(key)[0] if found.store.head(key) is not None else None
