from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

import pytest

from benchmarks.testbed.artifacts import CONTENT, manifest, write
from compiler.artifact.manifest import ArtifactFile, load_manifest
from compiler.artifact.scan import ScanFinding, check_publishable, scan
from compiler.errors import RefusedError
from compiler.storage.files.digest import OCTETS, digest_bytes
from tests.artifact.test_archive import archive

if TYPE_CHECKING:
    from pathlib import Path

# Put together here, so that no scanner takes this file for a leak.
AWS_ID = "AK" + "IAIOSFODNN7EXAMPLE"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
HF = "hf" + "_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789"
GITHUB = "ghp" + "_" + "a1" * 18
KEY = "-----BEGIN " + "OPENSSH PRIVATE KEY-----"

LEAKS = {
    "AWS access key id": f"key {AWS_ID} ",
    "AWS secret key or session token": f'"AWS_SECRET_ACCESS_KEY": "{AWS_SECRET}"',
    "Hugging Face token": f"token={HF}\n",
    "GitHub token": f"{GITHUB};",
    "private key": f"{KEY}\nb3Blb",
    "password in an URL": "postgres" + "://admin:correct-horse@db.internal/x",
    "path in a home directory": "/home/jane/src/model.py",
    "path in root's home directory": "\0/root/.cache/torch\0",
    "environment dump": "HOME=/x\nPATH=/usr/bin:/bin\nLANG=C\n",
}
INNOCENT = (
    "hf_hub_download hf_ AKIA /home/ /home/%s/x ${HOME}/home/a/b /usr/share/root/x https://huggingface.co/a/b "
    "/srv/home/a/b http://user@host/ secret_access_key= AWS_SESSION_TOKEN PATH=/usr/bin "
)


def artifact_with(folder: Path, path: str, data: bytes) -> Path:
    """An artifact with one more file."""
    files = {**CONTENT, path: data}
    write(
        folder,
        manifest(
            files=tuple(
                ArtifactFile(path=name, media_type=OCTETS, digest=digest_bytes(blob), size=len(blob))
                for name, blob in files.items()
            )
        ),
    )
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)
    return folder


def found(folder: Path, environment: dict[str, str] | None = None) -> tuple[ScanFinding, ...]:
    return scan(folder, load_manifest(folder), environment or {})


def test_a_clean_artifact(tmp_path: Path) -> None:
    folder = artifact_with(tmp_path, "notes.txt", INNOCENT.encode())
    assert found(folder) == ()
    check_publishable(folder, manifest(), {})


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_named_by_file_and_kind(tmp_path: Path, kind: str) -> None:
    folder = artifact_with(tmp_path, "notes.txt", (INNOCENT + LEAKS[kind] + INNOCENT).encode())
    assert found(folder) == (ScanFinding("notes.txt", kind),)


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_inside_a_compressed_package_is_found(tmp_path: Path, kind: str) -> None:
    import zipfile

    data = archive(("p/model.so", b"\x7fELF\0" + LEAKS[kind].encode()), compression=zipfile.ZIP_DEFLATED)
    folder = artifact_with(tmp_path, "packages/x.pt2", data)
    assert found(folder) == (ScanFinding("packages/x.pt2!p/model.so", kind),)


def test_the_error_never_shows_the_secret(tmp_path: Path) -> None:
    folder = artifact_with(tmp_path, "notes.txt", " ".join(LEAKS.values()).encode())
    made = load_manifest(folder)
    with pytest.raises(RefusedError) as caught:
        check_publishable(folder, made, {})
    told = caught.value.message + caught.value.hint
    assert [secret for secret in (AWS_ID, AWS_SECRET, HF, GITHUB, "correct-horse", "jane") if secret in told] == []
    assert "notes.txt: Hugging Face token" in told
    assert caught.value.exit_code == 4


def test_a_secret_of_this_environment_is_found_whatever_it_looks_like(tmp_path: Path) -> None:
    value = secrets.token_hex(10)
    folder = artifact_with(tmp_path, "notes.txt", f"x{value}y".encode())
    environment = {"MY_SERVICE_TOKEN": value, "EDITOR": value, "TOKEN_SHORT": "y"}
    assert found(folder, environment) == (ScanFinding("notes.txt", "value of $MY_SERVICE_TOKEN"),)


def test_the_files_of_the_model_may_name_their_authors_folders_but_no_credential(tmp_path: Path) -> None:
    config = json.dumps({"_name_or_path": "/home/author/model", "token": HF})
    folder = artifact_with(tmp_path, "tokenizer/tokenizer_config.json", config.encode())
    assert found(folder) == (ScanFinding("tokenizer/tokenizer_config.json", "Hugging Face token"),)


def test_tensors_are_not_text(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"made": "/home/jane/x"}}).encode()
    data = len(header).to_bytes(8, "little") + header + HF.encode()
    folder = artifact_with(tmp_path, "more.safetensors", data)
    assert found(folder) == (ScanFinding("more.safetensors", "path in a home directory"),)


def test_the_manifest_is_scanned_too(tmp_path: Path) -> None:
    folder = write(tmp_path, manifest(toolchain={"cxx": "/home/jane/bin/g++"}))
    assert found(folder) == (ScanFinding("manifest.json", "path in a home directory"),)
