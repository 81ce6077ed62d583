from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from benchmarks.testbed.artifacts import manifest, write
from compiler.artifact.sign import SIGNATURE, check_signed, sign
from compiler.errors import ArtifactError, SignatureError, UsageError

Pair = tuple[Path, Path]


def make_pair(folder: Path, name: str) -> Pair:
    """A private and a public key, as files."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path, "key")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write(tmp_path / "artifact")


def test_a_signed_artifact(artifact: Path, pair: Pair) -> None:
    assert sign(artifact, str(pair[0])) == artifact / SIGNATURE
    check_signed(artifact, pair[1])
    assert len(base64.b64decode((artifact / SIGNATURE).read_bytes())) == 64


def test_one_changed_byte_of_the_manifest_is_found(artifact: Path, pair: Pair) -> None:
    sign(artifact, str(pair[0]))
    path = artifact / "manifest.json"
    path.write_bytes(path.read_bytes() + b"\n")  # the same manifest to a JSON reader
    with pytest.raises(SignatureError, match="its manifest was changed, or somebody else signed it") as caught:
        check_signed(artifact, pair[1])
    assert caught.value.exit_code == 7


def test_an_unsigned_artifact_and_one_signed_by_others(tmp_path: Path, artifact: Path, pair: Pair) -> None:
    with pytest.raises(SignatureError, match=r"is not signed, and a signature by .*key\.pub is required"):
        check_signed(artifact, pair[1])
    sign(artifact, str(make_pair(tmp_path, "other")[0]))
    with pytest.raises(SignatureError, match="is not signed by"):
        check_signed(artifact, pair[1])


def test_keys_are_replaced_without_a_gap(tmp_path: Path, artifact: Path, pair: Pair) -> None:
    """Sign with both; readers may know the old one, the new one, or both in one file."""
    new = make_pair(tmp_path, "new")
    for private, _ in (pair, new, pair):
        sign(artifact, str(private))
    assert len((artifact / SIGNATURE).read_bytes().split()) == 2
    both = tmp_path / "both.pub"
    both.write_bytes(pair[1].read_bytes() + new[1].read_bytes())
    for public in (pair[1], new[1], both):
        check_signed(artifact, public)


@pytest.mark.parametrize("junk", [b"", b"not base64!\n", base64.b64encode(b"short"), b"\xff\xfe"])
def test_a_broken_signature_is_no_signature(artifact: Path, pair: Pair, junk: bytes) -> None:
    (artifact / SIGNATURE).write_bytes(junk)
    with pytest.raises(SignatureError):
        check_signed(artifact, pair[1])


def test_the_key_may_come_from_stdin(artifact: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(pair[0].read_bytes())))
    sign(artifact, "-")
    check_signed(artifact, pair[1])


def test_keys_that_are_none(tmp_path: Path, artifact: Path, pair: Pair) -> None:
    private, public = pair
    with pytest.raises(UsageError, match="cannot read the key"):
        sign(artifact, str(tmp_path / "nowhere.pem"))
    with pytest.raises(UsageError, match="is not a private key in PEM"):
        sign(artifact, str(public))
    with pytest.raises(UsageError, match="has no public key in PEM"):
        check_signed(artifact, private)
    curve = tmp_path / "curve.pem"
    curve.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(UsageError, match="is not an ed25519 key") as caught:
        sign(artifact, str(curve))
    assert "openssl genpkey -algorithm ed25519" in caught.value.hint
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    )
    with pytest.raises(UsageError, match="encrypted with a passphrase"):
        sign(artifact, str(locked))


def test_only_an_artifact_is_signed(tmp_path: Path, pair: Pair) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        sign(tmp_path, str(pair[0]))
    (tmp_path / "manifest.json").write_bytes(manifest().to_bytes()[:-20])
    with pytest.raises(ArtifactError, match="is not a manifest"):
        sign(tmp_path, str(pair[0]))
    assert not (tmp_path / SIGNATURE).exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_the_keys_and_agrees(tmp_path: Path, artifact: Path) -> None:
    """The commands of the module's docstring."""

    def openssl(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)

    private, public, raw = tmp_path / "key.pem", tmp_path / "key.pub", tmp_path / "raw.sig"
    assert openssl("genpkey", "-algorithm", "ed25519", "-out", private).returncode == 0
    assert openssl("pkey", "-in", private, "-pubout", "-out", public).returncode == 0
    raw.write_bytes(base64.b64decode(sign(artifact, str(private)).read_bytes()))
    check_signed(artifact, public)
    path = artifact / "manifest.json"
    agree: list[str | Path] = ["pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", path, "-sigfile", raw]
    assert openssl(*agree).returncode == 0
    path.write_bytes(path.read_bytes().replace(b"tiny", b"huge"))
    assert openssl(*agree).returncode != 0
