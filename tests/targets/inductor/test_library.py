"""Kept library of kernels: compiled once for a toolchain and march. A script takes the compiler's place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compiler.errors import CompileError
from compiler.storage.cache.stages import StageCache
from compiler.targets.inductor.library import LibraryInputs, cached_library

_WRITES = 'for last; do :; done; echo "stand-in of an object file" > "$last"'


def compiler(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_build_with_the_same_toolchain_and_march_takes_the_kept_library(tmp_path: Path) -> None:
    cache = StageCache(tmp_path / "cache", warn=print)
    inputs = LibraryInputs({"cxx": "g++ 12", "products": "1"}, "x86-64-v3")
    works, fails = compiler(tmp_path / "works", _WRITES), compiler(tmp_path / "fails", "exit 1")

    first = cached_library(cache, inputs, works, tmp_path / "a", jobs=2, timeout=60)
    second = cached_library(cache, inputs, fails, tmp_path / "b", jobs=2, timeout=60)
    assert second == first
    assert [file.name for file in sorted(first.iterdir())] == ["libproducts.a", "result.json"]
    for number, other in enumerate(
        (replace(inputs, march="x86-64-v4"), replace(inputs, versions={"cxx": "g++ 13", "products": "1"}))
    ):
        with pytest.raises(CompileError):
            cached_library(cache, other, fails, tmp_path / f"other{number}", jobs=2, timeout=60)


def test_a_library_that_did_not_compile_is_not_kept(tmp_path: Path) -> None:
    cache, inputs = StageCache(tmp_path / "cache", warn=print), LibraryInputs({}, "x86-64-v3")
    with pytest.raises(CompileError):
        cached_library(cache, inputs, compiler(tmp_path / "fails", "exit 1"), tmp_path / "a", jobs=2, timeout=60)
    works = compiler(tmp_path / "works", _WRITES)
    assert cached_library(cache, inputs, works, tmp_path / "b", jobs=2, timeout=60).is_dir()
