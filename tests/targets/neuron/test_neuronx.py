"""The boundary to neuronx-cc: a stand-in on PATH parses the graph, checks its command line, and fails in every way."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from compiler.artifact.manifest import Device
from compiler.errors import CompileError, ToolchainMissing
from compiler.model.config import LayerKind, ModelConfig
from compiler.targets.neuron import build
from compiler.targets.neuron.graph.lower import lower
from compiler.targets.neuron.graph.signature import GraphSpec
from compiler.targets.neuron.neuronx import (
    NeuronxRun,
    cache_folder_of,
    compiler_argv,
    compiler_flags,
    compiler_version,
    run_compiler,
)
from compiler.targets.neuron.plan import neuron_plan
from compiler.targets.neuron.platforms import PLATFORMS
from compiler.targets.neuron.specs import GraphBuild
from compiler.targets.values import How, Sources
from tests.targets.neuron.stand_in import MARK, VERSION, calls, install, parse_module

TINY = ModelConfig(
    "LlamaForCausalLM", 1, 16, 4, 2, 4, 24, 32, 1e-5, 64, "float32", rotary_dim=4, layer_kinds=(LayerKind("gated"),)
)  # fmt: skip
PLAN = neuron_plan(TINY, 2, 16, dtype="float32", context_buckets=(8,))
GRAPH = GraphSpec("token", 16, 1)


@pytest.fixture(scope="module")
def graph() -> bytes:
    return lower(PLAN, GRAPH)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with the stand-in, first on PATH."""
    folder = tmp_path / "bin"
    install(folder)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def run(graph: bytes, folder: Path, timeout: float = 60.0) -> None:
    (folder / "g.hlo_module.pb").write_bytes(graph)
    argv = compiler_argv("g.hlo_module.pb", "g.neff", PLATFORMS["trn2"])
    digest = hashlib.sha256(graph).hexdigest()
    run_compiler(NeuronxRun(argv, {"g.hlo_module.pb": digest}, ("g.neff",), timeout), folder)


def test_the_compiler_gets_the_documented_command_line(graph: bytes, commands: Path, tmp_path: Path) -> None:
    run(graph, tmp_path)
    assert (tmp_path / "g.neff").read_bytes().startswith(MARK)
    assert calls(commands) == [
        ["compile", "--framework=XLA", "g.hlo_module.pb", "--output", "g.neff", "--target=trn2",
         "--model-type=transformer", "--auto-cast=none", "--lnc=2", "--verbose=35"]
    ]  # fmt: skip
    assert compiler_version() == VERSION
    assert not (tmp_path / "g.neff.log").exists()


def test_the_stand_in_reads_every_byte_of_a_graph(graph: bytes) -> None:
    name, computations = parse_module(graph)
    assert name == GRAPH.name
    assert computations > 1
    for broken in (graph[:-3], graph[: len(graph) // 2], b"\x00" + graph):
        with pytest.raises((AssertionError, IndexError)):
            parse_module(broken)


@pytest.mark.parametrize(
    ("mode", "timeout", "words"),
    [
        ("fail", 60.0, "failed on g.neff with exit code 1.*\n(.*\n)*.*hlo2penguin: unsupported operation"),
        ("flaky 3", 60.0, "failed 3 times on g.neff with exit code 70.*\n(.*\n)*.*the backend ended unexpectedly"),
        ("hang", 1.0, "did not finish g.neff in 1 s and was killed"),
        ("empty", 60.0, "ended with exit code 0 and wrote no g.neff"),
    ],
)
def test_failures_say_what_happened_with_the_end_of_the_log(
    mode: str, timeout: float, words: str, graph: bytes, commands: Path, tmp_path: Path
) -> None:
    (commands / "mode").write_text(mode)
    with pytest.raises(CompileError) as found:
        run(graph, tmp_path, timeout)
    assert re.search(words, found.value.message)
    assert found.value.hint


def test_exit_code_70_is_tried_again(graph: bytes, commands: Path, tmp_path: Path) -> None:
    (commands / "mode").write_text("flaky 2")
    run(graph, tmp_path)
    assert len(calls(commands)) == 3


def test_a_changed_input_is_refused(graph: bytes, commands: Path, tmp_path: Path) -> None:
    (tmp_path / "g.hlo_module.pb").write_bytes(graph + b"\x00")
    job = NeuronxRun(("neuronx-cc",), {"g.hlo_module.pb": hashlib.sha256(graph).hexdigest()}, ("g.neff",))
    with pytest.raises(CompileError, match="expected sha256"):
        run_compiler(job, tmp_path)
    assert calls(commands) == []


def test_without_the_compiler_the_error_has_its_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainMissing, match="not on PATH") as found:
        compiler_version()
    assert "pip.repos.neuron.amazonaws.com" in found.value.hint


def specs(*, compiled: bool) -> list[GraphBuild]:
    graphs = (GraphSpec("context", 8, 1), GRAPH)
    return [GraphBuild(one, PLAN, "inf2", compiled) for one in graphs]


def compiled(out: Path, wanted: list[GraphBuild], jobs: int = 1) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    build.compile(
        wanted, out, How(jobs=jobs), device=Device(kind="neuron"), sources=Sources(out),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    return seen


def test_finished_graphs_are_kept_where_a_later_one_fails(commands: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (commands / "mode").write_text("flaky 2")
    assert compiled(out, specs(compiled=True)[:1]) == [(1, 1)]
    (commands / "mode").write_text("fail")
    with pytest.raises(CompileError, match="token_16_batch_1"):
        compiled(out, specs(compiled=True)[1:])
    assert {path.name for path in out.iterdir() if path.is_file()} == set(specs(compiled=True)[0].outputs)
    (commands / "mode").write_text("ok")
    compiled(out, specs(compiled=True)[1:])
    assert (out / "token_16_batch_1.version").read_text() == VERSION


def test_without_the_compiler_graphs_alone_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiled(tmp_path, specs(compiled=False)) == [(1, 2), (2, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "context_8_batch_1.hlo_module.pb", "token_16_batch_1.hlo_module.pb"
    ]  # fmt: skip
    assert "neuronx-cc" not in build.versions("neuron")


def test_a_graph_has_one_place_in_the_persistent_cache(graph: bytes) -> None:
    found = cache_folder_of("2.21.1", graph, compiler_flags(PLATFORMS["inf2"]))
    assert re.fullmatch(r"neuronxcc-2\.21\.1/MODULE_[0-9a-f]{20}\+[0-9a-f]{8}", found)
    # The key of the flags that published logs of 2025 show.
    assert cache_folder_of("2", b"", ["--target=trn1"]).endswith("+e30acd3a")
    assert found != cache_folder_of("2.21.1", graph + b" ", compiler_flags(PLATFORMS["inf2"]))


def test_the_cache_key_of_a_graph_has_its_flags_and_plan(graph: bytes) -> None:
    one, other = specs(compiled=True)[0].to_json(), specs(compiled=False)[0].to_json()
    assert one["flags"] == list(compiler_flags(PLATFORMS["inf2"]))
    assert other["flags"] == []
    assert json.loads(json.dumps(one))["plan"]["heads"]["strategy"] == "shard-over-heads"
