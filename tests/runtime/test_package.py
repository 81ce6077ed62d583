"""Loading and running one package, without a compiler."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._C import _aoti

from compiler.decoder.segments import specs
from compiler.errors import ArtifactError, IncompatibleError
from compiler.model.limits import Limits
from compiler.runtime.package import Package
from compiler.storage.files.folder import try_locked_folder
from compiler.targets.inductor import build
from tests.model.configs import config


@pytest.fixture(scope="module")
def embed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = next(s for s in specs(config(), 1, "float32", Limits(16, 2)) if s.name == "embed.decode1")
    (path,) = build.compile_segments([spec], tmp_path_factory.mktemp("packages"), device="cpu", march="x86-64-v3")
    return path


def inputs(token: int) -> list[Tensor]:
    table = torch.arange(37 * 16, dtype=torch.float32).view(37, 16)
    return [torch.tensor([[token]]), torch.tensor(0), table]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def check(package: Package) -> None:
    """Token 3 is row 3 of the table; the caller's list stays whole."""
    given = inputs(3)
    (found,) = package.run(given)
    assert len(given) == 3
    torch.testing.assert_close(found, inputs(3)[2][3].view(1, 1, 16), rtol=0, atol=0)


def test_a_package_runs_without_a_compiler_and_leaves_no_files(
    embed: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    package = Package(embed)
    assert not list(temporary.iterdir())
    check(package)


def test_files_of_a_killed_process_are_removed_and_those_of_a_live_one_are_not(embed: Path, temporary: Path) -> None:
    for name in ("lmi-package-left", "lmi-package-used", "another"):
        (temporary / name / "model").mkdir(parents=True)
    with try_locked_folder(temporary / "lmi-package-used") as ours:
        assert ours
        check(Package(embed))
    assert {path.name for path in temporary.iterdir()} == {"lmi-package-used", "another"}


def test_two_of_the_same_package_are_independent(embed: Path) -> None:
    first, second = Package(embed), Package(embed)
    del first
    check(second)


def test_the_public_loader_is_the_fallback(embed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = _aoti.AOTIModelPackageLoader
    used: list[str] = []

    def public(path: str) -> object:
        used.append(path)
        native = loader(path, "model", False, 1, -1)
        return lambda *given: native.run(list(given))

    monkeypatch.delattr(_aoti, "AOTIModelPackageLoader")
    monkeypatch.setattr("torch._inductor.aoti_load_package", public)
    package = Package(embed)
    assert used == [str(embed)]
    check(package)


def test_a_torch_without_any_loader_is_refused(embed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_aoti, "AOTIModelPackageLoader")
    monkeypatch.delattr("torch._inductor.aoti_load_package")
    with pytest.raises(IncompatibleError, match="neither") as caught:
        Package(embed)
    assert "manifest" in caught.value.hint


@pytest.mark.parametrize("content", [None, b"", b"no archive at all"])
def test_a_file_that_is_no_package_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "embed.decode1.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"embed\.decode1\.pt2"):
        Package(path)


def test_a_truncated_package_is_refused(embed: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.pt2"
    path.write_bytes(embed.read_bytes()[:-1000])
    with pytest.raises(ArtifactError, match=r"short\.pt2"):
        Package(path)
