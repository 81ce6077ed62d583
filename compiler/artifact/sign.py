"""Signatures of an artifact: `manifest.json.sig`, ed25519 (RFC 8032) over the bytes of manifest.json.

One signature per line, in base64, one line for each key. The manifest has the sha256 of every file, so nothing else
needs a signature. Keys are PEM files of OpenSSL:

    openssl genpkey -algorithm ed25519 -out key.pem                     the private key, for `sign`
    openssl pkey -in key.pem -pubout -out key.pub                       the public key, for `--require-signature`

OpenSSL can check the signatures too:

    base64 -d manifest.json.sig >manifest.sig
    openssl pkeyutl -verify -pubin -inkey key.pub -rawin -in manifest.json -sigfile manifest.sig
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.artifact.manifest import MANIFEST, load_manifest
from compiler.errors import SignatureError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE = f"{MANIFEST}.sig"

_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_MAKE_KEY = "make one with `openssl genpkey -algorithm ed25519 -out key.pem`"
_MAKE_PUBLIC = "make it from the private key with `openssl pkey -in key.pem -pubout -out key.pub`"


def sign(folder: Path, key: str) -> Path:
    """Add a signature by the private key in the PEM file `key` (`-`: stdin); the file of signatures.

    Signing again with the same key changes nothing. Raises ArtifactError, UsageError (no such key), OSError.
    """
    private = _private_key(key)
    load_manifest(folder)
    data, file = (folder / MANIFEST).read_bytes(), folder / SIGNATURE
    mine = base64.b64encode(private.sign(data))
    others = [line for line in file.read_bytes().split() if line != mine] if file.is_file() else []
    part = file.with_name(f"{SIGNATURE}.{os.getpid()}.part")
    part.write_bytes(b"".join(line + b"\n" for line in [*others, mine]))
    part.replace(file)
    return file


def check_signature(manifest: bytes, signatures: bytes | None, key: Path, name: str) -> None:
    """Check that one of `signatures` (the bytes of SIGNATURE) signs the bytes `manifest` with one of the public keys in
    the PEM file `key`. `name`: the artifact's name in errors.

    Raises SignatureError, UsageError (no such key).
    """
    keys = _public_keys(key)
    if signatures is None:
        raise SignatureError(
            f"{name} is not signed, and a signature by {key} is required",
            hint="sign it where it was built: `lmi-compile sign ARTIFACT --key key.pem`",
        )
    if not any(_verifies(public, line, manifest) for public in keys for line in signatures.split()):
        raise SignatureError(
            f"{name} is not signed by {key}: its manifest was changed, or somebody else signed it",
            hint="do not run it; get it again from where it was published, and ask who signed it",
        )


def check_signed(folder: Path, key: Path) -> None:
    """Check the signature of an artifact in a folder. Raises ArtifactError, SignatureError, UsageError."""
    load_manifest(folder)
    file = folder / SIGNATURE
    signatures = file.read_bytes() if file.is_file() else None
    check_signature((folder / MANIFEST).read_bytes(), signatures, key, str(folder))


def _verifies(public: Ed25519PublicKey, line: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(base64.b64decode(line, validate=True), data)
    except (InvalidSignature, binascii.Error):
        return False
    return True


def _private_key(name: str) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = sys.stdin.buffer.read() if name == "-" else _read(name)
    shown = "stdin" if name == "-" else name
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise UsageError(
            f"{shown} is encrypted with a passphrase",
            hint="decrypt it for this command only: `openssl pkey -in key.pem | lmi-compile sign ARTIFACT --key -`",
        ) from None
    except ValueError:
        raise UsageError(f"{shown} is not a private key in PEM", hint=_MAKE_KEY) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{shown} is not an ed25519 key", hint=_MAKE_KEY)
    return key


def _public_keys(path: Path) -> list[Ed25519PublicKey]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys = []
    for block in _PUBLIC.findall(_read(str(path))):
        try:
            key = load_pem_public_key(block)
        except ValueError:
            raise UsageError(f"{path} is not a public key in PEM", hint=_MAKE_PUBLIC) from None
        if not isinstance(key, Ed25519PublicKey):
            raise UsageError(f"{path} has a key that is not ed25519", hint=_MAKE_KEY)
        keys.append(key)
    if not keys:
        raise UsageError(f"{path} has no public key in PEM", hint=_MAKE_PUBLIC)
    return keys


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the key {name}: {error.strerror}", hint="pass a PEM file") from None
