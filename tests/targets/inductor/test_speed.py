"""An artifact's text and page say what a decode step reads, and by which kernels this CPU computes it."""

from __future__ import annotations

import pytest

from benchmarks.testbed.artifacts import manifest
from compiler.artifact.manifest import Device
from compiler.cli.text import manifest_text
from compiler.decoder.traffic import step_bytes
from compiler.report import amount
from compiler.runtime.levels import VARIABLE, supported
from compiler.targets.inductor.speed import expected


def test_a_manifest_says_what_a_decode_step_reads_and_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    made = manifest()
    read = amount(step_bytes(made.config, made.parallel.tp, made.dtype), "bytes")
    assert expected(made) == [
        ("decode step", f"{read} of weights a row; kernels of level {supported()[-1]} on this CPU")
    ]
    assert expected(made)[0][1] in manifest_text(made)


def test_a_forced_level_is_named_and_an_unknown_one_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "portable")
    assert "kernels of level portable on this CPU" in expected(manifest())[0][1]
    monkeypatch.setenv(VARIABLE, "none-such")
    assert "level none-such, which this CPU does not run" in expected(manifest())[0][1]


def test_what_runs_on_a_gpu_has_no_level() -> None:
    assert expected(manifest(device=Device(kind="cuda", capability="9.0"))) == []
