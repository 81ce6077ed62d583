"""Target `trtllm` as a user meets it: what is printed, and what the command ends with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["lmi-compile", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return call


def test_without_the_toolchain_it_says_what_is_left_to_do(
    run: Run, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    output = tmp_path / "artifact"
    model = ["--model", tiny_checkpoint("mixtral"), "--tp", "8", "--target", "trtllm", "--trtllm-version", "0.12.0"]
    code, out, err = run("build", *model, "--max-batch-size", "4", "--output", output)
    assert (code, out) == (6, "")
    assert f"The verified checkpoint is in {output}" in err
    assert "build-engines.sh" in err
    assert "this build will end after judge" in err
    code, out, _ = run("inspect", output)
    assert code == 0
    assert "checkpoint; its engines are not built yet" in out
    assert "0.12.0, for image 0.32.0-tensorrtllm0.12.0-cu125" in out
    code, out, _ = run("verify", output, "--json")
    assert (code, json.loads(out)["numerics"]["top1_agreement"]) == (0, 1.0)
    code, _, err = run("generate", output, "Hello")
    assert (code, "in a serving container" in err) == (7, True)
    code, _, err = run("package", output)
    assert (code, "rank0.engine is missing" in err) == (7, True)


def test_every_limit_and_way_to_split_reaches_the_builder(run: Run, tiny_checkpoint: Callable[[str], Path]) -> None:
    model = ["--model", tiny_checkpoint("mixtral"), "--tp", "4", "--target", "trtllm"]
    limits = ["--max-seq-len", "64", "--max-input-len", "48", "--max-num-tokens", "128", "--max-batch-size", "3"]
    code, out, _ = run("build", *model, *limits, "--image", "0.33.0-tensorrtllm0.21.0-cu128", "--dry-run", "--json")
    line = json.loads(out)
    given = dict(zip(line[1::2], line[2::2], strict=True))
    assert code == 0
    assert [given[f"--max_{name}"] for name in ("seq_len", "input_len", "num_tokens", "batch_size")] == [
        "64", "48", "128", "3",
    ]  # fmt: skip
    code, out, _ = run("plan", *model, "--moe-ep", "2", "--parallel-embedding")
    assert (code, "trtllm, tp 4, moe_ep 2" in out) == (0, True)
    code, _, err = run("plan", *model, "--pp", "2")
    assert (code, "layers do not divide by pp 2" in err) == (4, True)
    code, _, err = run("plan", *model, "--image", "0.34.0-tensorrtllm0.12.0-cu125")
    assert (code, "0.34" in err) == (4, True)
