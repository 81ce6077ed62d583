"""The process boundary, with a stand-in behind it: arguments, time limit, what an error says, what is left behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from compiler.errors import CompileError, MemoryCeilingError
from compiler.targets.trtllm import build, engines
from compiler.targets.trtllm.command import argv, flags
from compiler.targets.trtllm.config import config_bytes
from compiler.targets.trtllm.section import BuildLimits
from tests.targets.trtllm.models import CASES, tensors_of
from tests.targets.trtllm.ranks import config_of, ranks_of
from tests.targets.trtllm.stand_in import write_stand_in

LIMITS = BuildLimits(max_batch_size=8, max_input_len=3584, max_seq_len=4096, max_num_tokens=8192)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "a checkpoint"
    folder.mkdir()
    config = CASES["llama"].config
    (folder / "config.json").write_bytes(config_bytes(config_of(config, 2)))
    for r, tensors in enumerate(ranks_of(config, tensors_of("llama")[0], 2)):
        save_file(tensors, folder / f"rank{r}.safetensors")
    return folder


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "bin"
    folder.mkdir()
    write_stand_in(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return build.find_command()


def _line(checkpoint: Path, output: Path) -> list[str]:
    chosen = flags((0, 12, 0), "bfloat16", LIMITS, experts=False)
    return argv(str(checkpoint), str(output), chosen)


def _content(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return content


def test_arguments_follow_the_version() -> None:
    new = argv("c", "o", flags((0, 12, 0), "bfloat16", LIMITS, experts=True))
    old = argv("c", "o", flags((0, 9, 0), "bfloat16", LIMITS, experts=True))
    assert new[:5] == ["trtllm-build", "--checkpoint_dir", "c", "--output_dir", "o"]
    assert new[new.index("--max_seq_len") + 1] == "4096"
    assert "--max_output_len" not in new
    assert int(old[old.index("--max_input_len") + 1]) + int(old[old.index("--max_output_len") + 1]) == 4096
    assert "--max_seq_len" not in old
    assert "--paged_kv_cache" in old


def test_optional_flags_are_left_out_where_the_command_does_not_name_them(command: str) -> None:
    known = build.help_text(command)
    line = argv("c", "o", flags((0, 12, 0), "bfloat16", LIMITS, experts=True), known)
    assert "--context_fmha" in line
    assert "--moe_plugin" not in line
    assert "--gemm_plugin" in line


def test_engines_of_a_stand_in_are_marked(checkpoint: Path, command: str, tmp_path: Path) -> None:
    build.run(_line(checkpoint, tmp_path / "engines"), tmp_path / "log")
    found = engines.check_engines(tmp_path / "engines", _content(checkpoint), (0, 12, 0), LIMITS)
    assert [file.name for file in found.files] == ["rank0.engine", "rank1.engine"]
    assert (found.version, found.stand_in) == ("0.12.0", True)


@pytest.mark.parametrize(
    ("mode", "words", "hint"),
    [
        ("fail", "exit code 1.*\n.*building.*\n.*tensor has the wrong shape", "whole log"),
        ("killed", "out-of-memory killer", "--workers"),
    ],
)
def test_a_failure_shows_the_end_of_the_log(
    mode: str, words: str, hint: str, checkpoint: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODE", mode)
    with pytest.raises(CompileError, match=words) as error:
        build.run(_line(checkpoint, tmp_path / "engines"), tmp_path / "log")
    assert hint in error.value.hint


def test_a_builder_that_hangs_is_ended(
    checkpoint: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODE", "hang")
    with pytest.raises(CompileError, match="did not finish in 1 s"):
        build.run(_line(checkpoint, tmp_path / "engines"), tmp_path / "log", timeout_s=1)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("nothing", "rank0.engine is missing or empty; rank1.engine is missing"),
        ("empty", "rank1.engine is missing or empty"),
        ("other", "vocab_size: expected 37, found 38"),
        ("older", r"built by TensorRT-LLM 0\.9\.0, expected 0\.12\.0"),
        ("small", "max_batch_size: expected at least 8, found 1"),
    ],
)
def test_an_engine_folder_that_does_not_fit_is_refused(
    mode: str, words: str, checkpoint: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODE", mode)
    build.run(_line(checkpoint, tmp_path / "engines"), tmp_path / "log")
    with pytest.raises(CompileError, match=words):
        engines.check_engines(tmp_path / "engines", _content(checkpoint), (0, 12, 0), LIMITS)


def test_a_folder_without_config_or_with_ranks_too_many(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "rank7.engine").write_bytes(b"x")
    with pytest.raises(CompileError, match=r"rank7.engine has no rank.*config.json cannot be read"):
        engines.check_engines(tmp_path, _content(checkpoint), (0, 12, 0), LIMITS)


def test_workers_fit_the_host() -> None:
    gib = 1 << 30
    assert build.workers_for(8, 16 * gib, devices=8, host_memory=256 * gib) == 5
    assert build.workers_for(8, 2 * gib, devices=4, host_memory=256 * gib) == 4
    assert build.workers_for(2, 2 * gib, devices=4, host_memory=256 * gib) == 2
    with pytest.raises(MemoryCeilingError, match="available are"):
        build.workers_for(8, 16 * gib, devices=8, host_memory=32 * gib)
