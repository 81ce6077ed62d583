"""The process boundary: what comes out of it, and what it says when the toolchain fails."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from compiler.decoder.segments import SegmentSpec, specs
from compiler.errors import CompileError, ToolchainMissing
from compiler.model.limits import Limits
from compiler.storage.cache.stages import StageCache
from compiler.targets.inductor import build, toolchain
from compiler.targets.inductor.worker import repack
from tests.model.configs import config


def spec(name: str = "embed.decode1") -> SegmentSpec:
    return next(s for s in specs(config(), 1, "float32", Limits(16, 2)) if s.name == name)


def test_the_same_spec_gives_the_same_bytes_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session_cache: StageCache
) -> None:
    """Also beside another segment, in another order, with another temporary folder, and with a kept library."""
    wanted = [spec("embed.decode1"), spec("head.decode1")]
    seen: list[tuple[int, int]] = []
    first = build.compile_segments(
        wanted,
        tmp_path / "a",
        device="cpu",
        march="x86-64-v3",
        jobs=2,
        progress=lambda *at: seen.append(at),
        cache=session_cache,
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    second = build.compile_segments(wanted[::-1], tmp_path / "b", device="cpu", march="x86-64-v3", jobs=1)

    assert [path.name for path in first] == ["embed.decode1.pt2", "head.decode1.pt2"]
    assert [path.name for path in second] == ["head.decode1.pt2", "embed.decode1.pt2"]
    assert seen == [(1, 2), (2, 2)]
    for path in first:
        data = path.read_bytes()
        assert data == (tmp_path / "b" / path.name).read_bytes()
        for leak in (tmp_path, Path(build.__file__).parents[3], Path.home(), "site-packages", "lmi-compile-"):
            assert str(leak).encode() not in data
    assert not list(elsewhere.iterdir())


def test_without_a_compiler_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    for act in (
        lambda: build.versions("cpu"),
        lambda: build.compile_segments([spec()], tmp_path, device="cpu", march="x86-64-v3"),
    ):
        with pytest.raises(ToolchainMissing, match="no-such-compiler") as caught:
            act()
        assert "apt-get install" in caught.value.hint


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "g++"
    # What asks for a version gets one, so that only compiling fails.
    broken.write_text(
        '#!/bin/sh\ncase "$1" in -dump*|--version) exec g++ "$@";; esac\necho cc1plus: out of luck >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(CompileError, match=r"(?s)`embed\.decode1`.*cc1plus: out of luck"):
        build.compile_segments([spec()], tmp_path / "out", device="cpu", march="x86-64-v3")
    assert not list((tmp_path / "out").iterdir())


def test_a_segment_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker and whatever it started: they are one session."""
    started: list[int] = []
    popen = subprocess.Popen

    def recorded(*args: Any, **options: Any) -> Any:
        process = popen(*args, **options)
        started.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", recorded)
    with pytest.raises(CompileError, match=r"`embed\.decode1` did not compile within 0\.5 s"):
        build.compile_segments([spec()], tmp_path / "out", device="cpu", march="x86-64-v3", timeout=0.5)
    assert len(started) == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(started[0], 0)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("march", ["x86-64-v9", "skylake"])
def test_an_unknown_march_is_refused(tmp_path: Path, march: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(CompileError, match=march):
        build.compile_segments([spec()], tmp_path, device="cpu", march=march)


def test_a_march_beyond_this_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(toolchain, "missing_for", lambda _march: ("avx512bw",))
    with pytest.raises(CompileError, match="avx512bw") as caught:
        build.compile_segments([spec()], tmp_path, device="cpu", march="x86-64-v4")
    assert "--march" in caught.value.hint


def test_versions_name_what_decides_the_bytes() -> None:
    found = build.versions("cpu")
    assert set(found) == {"torch", "cxx", "ld", "products"}
    assert all(any(c.isdigit() for c in text) for text in found.values())


def _archive(path: Path, stem: str, folder: str, date: tuple[int, int, int, int, int, int], serial: str) -> Path:
    """An archive as torch writes it: names are hashes over paths, comments hold paths."""
    wrapper, kernel = f"c{stem}", f"d{stem}"
    inside = f"{path.stem}/data/aotinductor/model"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {
            f"{inside}/{wrapper}.wrapper.cpp": f"int main();\n// g++ {folder}/x.cpp\n",
            f"{inside}/{kernel}.kernel.cpp": f"// in {folder}\n",
            f"{inside}/{kernel}.kernel_metadata.json": "{}",
            f"{inside}/{wrapper}.wrapper_metadata.json": '{"AOTI_DEVICE_KEY": "cpu"}',
            f"{inside}/{wrapper}.wrapper.so": "library",
            f"{path.stem}/archive_format": "pt2",
            f"{path.stem}/.data/serialization_id": serial,
        }.items():
            archive.writestr(zipfile.ZipInfo(name, date), text)
    return path


def test_repacking_leaves_what_was_compiled_and_nothing_else(tmp_path: Path) -> None:
    raw = [
        _archive(tmp_path / "one.pt2", "abc", "/home/a", (2020, 1, 2, 3, 4, 6), "1"),
        _archive(tmp_path / "two.pt2", "xyz", "/home/b", (2021, 1, 2, 3, 4, 6), "2"),
    ]
    packages = [tmp_path / "1.pt2", tmp_path / "2.pt2"]
    for source, target in zip(raw, packages, strict=True):
        repack(source, target, root="mlp.decode")
    assert packages[0].read_bytes() == packages[1].read_bytes()
    with zipfile.ZipFile(packages[0]) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "mlp.decode/archive_format": b"pt2",
            "mlp.decode/data/aotinductor/model/model.wrapper.cpp": b"int main();\n",
            "mlp.decode/data/aotinductor/model/model.wrapper.so": b"library",
            "mlp.decode/data/aotinductor/model/model.wrapper_metadata.json": b'{"AOTI_DEVICE_KEY": "cpu"}',
        }
