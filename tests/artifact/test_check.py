from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.testbed.artifacts import CONTENT, manifest, write
from compiler.artifact.check import Machine, check_files, check_machine, this_machine
from compiler.artifact.manifest import Device
from compiler.errors import ArtifactError, IncompatibleError
from compiler.machine import LEVELS
from compiler.runtime.section import check_artifact
from compiler.storage.files.crc import crc_text
from compiler.storage.files.digest import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.artifact.manifest import Manifest

V3 = frozenset[str]().union(*(LEVELS[level] for level in ("x86-64", "x86-64-v2", "x86-64-v3")))
HERE = Machine(torch="2.13.1", isa="x86-64-v3", features=V3)
CUDA = Device(kind="cuda", capability="9.0")


def test_a_machine_that_fits() -> None:
    check_machine(manifest(), HERE)
    check_machine(manifest(device=CUDA), replace(HERE, capability="9.0"))
    check_machine(manifest(device=Device(kind="cpu", isa="x86-64-v2")), HERE)


@pytest.mark.parametrize("version", ["2.12.9", "3.13.0", None])
def test_another_torch_is_refused_with_the_remedy(version: str | None) -> None:
    with pytest.raises(IncompatibleError, match=r"built with torch 2\.13\.0\+cpu; this machine has") as caught:
        check_machine(manifest(), replace(HERE, torch=version))
    assert "torch==2.13.*" in caught.value.hint
    assert caught.value.exit_code == 7


def test_an_older_cpu_is_refused_by_what_it_lacks() -> None:
    made = manifest(device=Device(kind="cpu", isa="x86-64-v4"))
    with pytest.raises(IncompatibleError, match=r"compiled for x86-64-v4; this CPU is x86-64-v3 .*avx512f") as caught:
        check_machine(made, HERE)
    assert "--march x86-64-v3" in caught.value.hint


def test_native_code_needs_the_features_it_was_compiled_with() -> None:
    made = manifest(device=Device(kind="cpu", isa="x86-64-v3", features=("avx_vnni", "gfni")))
    with pytest.raises(IncompatibleError, match=r"lacks avx_vnni, gfni"):
        check_machine(made, HERE)
    check_machine(made, replace(HERE, features=V3 | {"avx_vnni", "gfni", "sha_ni"}))


def test_another_kind_of_cpu_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="this CPU is x86-64-v3 and lacks `aarch64`"):
        check_machine(manifest(device=Device(kind="cpu", isa="aarch64")), HERE)


@pytest.mark.parametrize(("found", "words"), [(None, "has no GPU"), ("8.0", "the GPU here has 8.0")])
def test_another_gpu_is_refused(found: str | None, words: str) -> None:
    with pytest.raises(IncompatibleError, match=words):
        check_machine(manifest(device=CUDA), replace(HERE, capability=found))


def test_a_whole_artifact(tmp_path: Path) -> None:
    check_files(manifest(), write(tmp_path), by="sha256")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


def test_one_flipped_bit_is_found_by_the_full_check(tmp_path: Path) -> None:
    flip(write(tmp_path) / "weights/rank1.safetensors")
    check_files(manifest(), tmp_path)
    with pytest.raises(ArtifactError, match=r"weights/rank1\.safetensors: expected sha256:.*, found sha256:"):
        check_files(manifest(), tmp_path, by="sha256")


def with_crcs() -> Manifest:
    return manifest(
        files=tuple(f.model_copy(update={"crc": crc_text(zlib.crc32(CONTENT[f.path]))}) for f in manifest().files)
    )


def test_damage_is_found_by_the_crc_alone(tmp_path: Path) -> None:
    made = with_crcs()
    write(tmp_path, made)
    read: list[Path] = []

    def digest(path: Path) -> str:
        read.append(path)
        return sha256_file(path)

    check_files(made, tmp_path, by="crc", digest=digest)
    flip(tmp_path / "weights/rank1.safetensors")
    with pytest.raises(ArtifactError, match=r"weights/rank1\.safetensors: expected crc32:.*, found crc32:"):
        check_files(made, tmp_path, by="crc", digest=digest)
    assert read == []


def test_a_manifest_without_crcs_is_checked_by_digest(tmp_path: Path) -> None:
    flip(write(tmp_path) / "weights/rank1.safetensors")
    with pytest.raises(ArtifactError, match=r"weights/rank1\.safetensors: expected sha256:.*, found sha256:"):
        check_files(manifest(), tmp_path, by="crc")


def test_all_damaged_files_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "weights/rank0.safetensors").write_bytes(b"short")
    (tmp_path / "packages/attn.prefill.pt2").unlink()
    (tmp_path / "tokenizer/tokenizer.json").unlink()
    (tmp_path / "tokenizer/tokenizer.json").mkdir()
    with pytest.raises(ArtifactError) as caught:
        check_files(manifest(), tmp_path)
    lines = caught.value.message.splitlines()
    assert lines[0].startswith("3 damaged file(s)")
    assert "weights/rank0.safetensors: expected 400 bytes, found 5" in caught.value.message
    assert "packages/attn.prefill.pt2: missing" in caught.value.message
    assert "tokenizer/tokenizer.json: expected a file" in caught.value.message


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    check_files(manifest(), write(tmp_path), by="sha256", progress=lambda *call: told.append(call))
    total = sum(len(data) for data in CONTENT.values())
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_check_artifact_asks_the_machine_before_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, manifest(toolchain={"torch": "1.0"}))
    (tmp_path / "weights/rank0.safetensors").unlink()
    with pytest.raises(IncompatibleError):
        check_artifact(tmp_path)
    monkeypatch.setattr("compiler.artifact.check.this_machine", lambda **_: replace(HERE, torch="1.0.5"))
    with pytest.raises(ArtifactError, match="missing"):
        check_artifact(tmp_path)


def test_this_machine_tells_its_torch_without_importing_it() -> None:
    import importlib.metadata

    assert this_machine().torch == importlib.metadata.version("torch")
