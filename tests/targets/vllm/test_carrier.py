"""Restoration of a cache, what is harvested, and what a process records."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compiler.errors import ArtifactError
from compiler.storage.files.digest import sha256_file
from compiler.targets.vllm.carrier import watch
from compiler.targets.vllm.carrier.guard import check_capability, check_ranks
from compiler.targets.vllm.carrier.restore import ARCHIVE, MARK, Unrestorable, restore
from compiler.targets.vllm.carrier.watch import is_compiler
from compiler.targets.vllm.harvest import harvest
from compiler.targets.vllm.server import install_carrier

CACHE = {
    "modelinfos/a.json": b"{}",
    "torch_compile_cache/k/rank_0_0/model": b"\x80\x04 pickle",
    "k/kernel.so": b"\x7fELF",
}


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def manifest_for(artifact: Path) -> None:
    files = [{"path": ARCHIVE, "digest": str(sha256_file(artifact / ARCHIVE))}]
    (artifact / "manifest.json").write_text(json.dumps({"files": files}))


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    harvest(tree(tmp_path / "made", CACHE), folder / ARCHIVE, {})
    manifest_for(folder)
    return folder


def test_the_archive_is_the_same_for_the_same_files(artifact: Path, tmp_path: Path) -> None:
    harvest(tree(tmp_path / "again", CACHE), tmp_path / "again.tar.gz", {})
    assert (tmp_path / "again.tar.gz").read_bytes() == (artifact / ARCHIVE).read_bytes()


def test_locks_and_unfinished_files_are_left_out(tmp_path: Path) -> None:
    root = tree(tmp_path / "made", {**CACHE, "locks/a": b"", "k/x.lock": b"", "k/y.tmp": b"", "k/.z.part": b""})
    assert {file.path for file in harvest(root, tmp_path / "a.tar.gz", {})} == set(CACHE)


@pytest.mark.parametrize(
    ("environment", "data", "found"),
    [
        ({"MY_API_KEY": "correct-horse"}, b"... correct-horse ...", "the value of `MY_API_KEY`"),
        ({}, b"token hf_" + b"a" * 34, "the form of a credential"),
        ({}, b"AKIA" + b"A" * 16, "the form of a credential"),
    ],
)
def test_a_secret_in_a_cache_file_is_refused(
    tmp_path: Path, environment: dict[str, str], data: bytes, found: str
) -> None:
    root = tree(tmp_path / "made", {"k/cache_key_factors.json": data})
    with pytest.raises(ArtifactError, match=f"cache_key_factors.json has .*{found}"):
        harvest(root, tmp_path / "a.tar.gz", environment)


def test_an_empty_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(ArtifactError, match="left no file"):
        harvest(tmp_path / "made", tmp_path / "a.tar.gz", {})


def test_a_restored_cache_has_the_bytes_of_the_archive(artifact: Path, tmp_path: Path) -> None:
    found = restore(artifact, tmp_path / "root", tmp_path / "record")
    assert files_of(tmp_path / "root") == CACHE
    assert (found["files"], found["bytes"]) == (len(CACHE), sum(map(len, CACHE.values())))


def test_a_cache_is_restored_once_a_host(artifact: Path, tmp_path: Path) -> None:
    root, record = tmp_path / "root", tmp_path / "record"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: restore(artifact, root, record), range(8)))
    assert len({json.dumps(each, sort_keys=True) for each in found}) == 1
    (root / "k/kernel.so").write_bytes(b"changed")
    restore(artifact, root, record)
    assert (root / "k/kernel.so").read_bytes() == b"changed"


def test_an_interrupted_restoration_is_repeated(artifact: Path, tmp_path: Path) -> None:
    root, record = tmp_path / "root", tmp_path / "record"
    tree(root, {"k/kernel.so": b"half"})
    restore(artifact, root, record)
    assert files_of(root) == CACHE


def test_another_artifact_replaces_the_mark(artifact: Path, tmp_path: Path) -> None:
    root, record = tmp_path / "root", tmp_path / "record"
    restore(artifact, root, record)
    harvest(tree(tmp_path / "other", {"k/kernel.so": b"other"}), artifact / ARCHIVE, {})
    manifest_for(artifact)
    restore(artifact, root, record)
    assert (root / "k/kernel.so").read_bytes() == b"other"


def test_nothing_is_unpacked_of_an_archive_with_another_digest(artifact: Path, tmp_path: Path) -> None:
    with (artifact / ARCHIVE).open("ab") as opened:
        opened.write(b"\0")
    with pytest.raises(Unrestorable, match="expected sha256"):
        restore(artifact, tmp_path / "root", tmp_path / "record")
    assert not (tmp_path / "root").exists()
    assert not (tmp_path / "record" / MARK).exists()


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_member_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    with gzip.open(folder / ARCHIVE, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as out:
        member = tarfile.TarInfo(name)
        member.size = 1
        out.addfile(member, io.BytesIO(b"x"))
    manifest_for(folder)
    with pytest.raises(Unrestorable, match="unexpected member"):
        restore(folder, tmp_path / "root", tmp_path / "record")
    assert not (tmp_path / "outside").exists()


def test_a_link_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    with gzip.open(folder / ARCHIVE, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as out:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        out.addfile(member)
    manifest_for(folder)
    with pytest.raises(Unrestorable, match="unexpected member"):
        restore(folder, tmp_path / "root", tmp_path / "record")


def keys(folder: Path, name: str) -> tuple[Ed25519PrivateKey, Path]:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / name).write_bytes(public)
    return private, folder / name


def sign_with(private: Ed25519PrivateKey, artifact: Path) -> None:
    import base64

    from compiler.artifact.sign import SIGNATURE

    signature = private.sign((artifact / "manifest.json").read_bytes())
    (artifact / SIGNATURE).write_bytes(base64.b64encode(signature) + b"\n")


def test_a_required_signature_is_checked_before_anything_else(artifact: Path, tmp_path: Path) -> None:
    mine, public = keys(tmp_path, "mine.pub")
    other, _ = keys(tmp_path, "other.pub")
    root, record = tmp_path / "root", tmp_path / "record"
    with pytest.raises(Unrestorable, match="signature is required"):
        restore(artifact, root, record, public)
    sign_with(other, artifact)
    with pytest.raises(Unrestorable, match="is not signed by"):
        restore(artifact, root, record, public)
    assert not root.exists()
    sign_with(mine, artifact)
    restore(artifact, root, record, public)
    assert files_of(root) == CACHE


def test_a_missing_manifest_is_named(artifact: Path, tmp_path: Path) -> None:
    (artifact / "manifest.json").unlink()
    with pytest.raises(Unrestorable, match=r"manifest\.json"):
        restore(artifact, tmp_path / "root", tmp_path / "record")


@pytest.mark.parametrize(
    ("line", "compiles"),
    [
        ("/usr/bin/g++ a.cpp -o a.so", True),
        ("g++-12 a.cpp -o a.so", True),
        ("x86_64-linux-gnu-g++ -shared -o a.so a.o", True),
        ("ptxas --gpu-name sm_90a a.ptx -o a.cubin", True),
        ("g++ --version", False),
        ("g++ -E a.h -o a.i", False),
        ("lscpu --json", False),
        ("python -m vllm.model_executor.models.registry -o x", False),
        ("", False),
    ],
)
def test_compilers_are_told_from_other_programs(line: str, compiles: bool) -> None:
    assert is_compiler(line.split()) is compiles


def test_the_carrier_needs_the_standard_library_alone(tmp_path: Path) -> None:
    boot = install_carrier(tmp_path / "boot")
    code = "import lmi_boot, lmi_boot.session, sys; print([m for m in sys.modules if m.startswith('compiler')])"
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(boot)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"


def test_vllm_finds_the_entry_point_of_the_carrier(tmp_path: Path) -> None:
    boot = install_carrier(tmp_path / "boot")
    code = (
        f"import sys; sys.path.insert(0, {str(boot)!r}); from importlib.metadata import entry_points; "
        "print([each.load().__name__ for each in entry_points(group='vllm.general_plugins')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "boot" in ran.stdout


@pytest.mark.parametrize(
    "words", [["--tensor-parallel-size", "1"], ["--tensor-parallel-size=1"], ["-tp", "1"], ["serve", "-tp", "1"]]
)
def test_a_server_with_another_number_of_ranks_is_refused(words: list[str]) -> None:
    manifest = {"parallel": {"tp": 2}}
    with pytest.raises(Unrestorable, match="shards for tp 2; the server was started with tp 1"):
        check_ranks(manifest, words, {})
    check_ranks({"parallel": {"tp": 1}}, words, {})


def test_ranks_are_read_from_the_variables_of_containers() -> None:
    with pytest.raises(Unrestorable, match="tp 4"):
        check_ranks({"parallel": {"tp": 2}}, [], {"SM_VLLM_TENSOR_PARALLEL_SIZE": "4"})
    check_ranks({"parallel": {"tp": 2}}, [], {"OPTION_TENSOR_PARALLEL_DEGREE": "max"})
    check_ranks({"parallel": {"tp": 2}}, ["-m"], {})


@pytest.mark.parametrize(("found", "refused"), [("12.0", True), ("8.6", False), ("12.0\n8.6", False)])
def test_kernels_of_another_gpu_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str, refused: bool
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{found}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    manifest = {"device": {"kind": "cuda", "capability": "8.6"}}
    if refused:
        with pytest.raises(Unrestorable, match=r"compute capability 8\.6; this machine has 12\.0"):
            check_capability(manifest)
    else:
        check_capability(manifest)


def test_without_nvidia_smi_the_key_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check_capability({"device": {"kind": "cuda", "capability": "8.6"}})


def test_instruction_sets_are_found_once_before_kernels_load(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fake = ModuleType("torch._inductor.cpu_vec_isa")
    monkeypatch.setattr(fake, "valid_vec_isa_list", lambda: calls.append("found"), raising=False)
    monkeypatch.setitem(sys.modules, "torch._inductor.cpu_vec_isa", fake)
    monkeypatch.setattr(watch, "_settled", [])
    watch.settle_instruction_set()
    assert calls == []
    monkeypatch.setenv("LMI_BOOT_SETTLE_ISA", "1")
    watch.settle_instruction_set()
    watch.settle_instruction_set()
    assert calls == ["found"]
