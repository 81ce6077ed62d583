from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import recipes
from compiler.artifact.check import check_artifact
from compiler.errors import (
    CheckpointError,
    DiskFullError,
    NumericsError,
    ParallelError,
    TokenizerError,
    ToolchainMissing,
    UsageError,
)
from compiler.pipeline.build import build
from compiler.pipeline.convert import convert_to
from compiler.pipeline.requests import BuildRequest, PlanRequest
from compiler.stages.plan import Ask
from compiler.stages.reference import read_reference
from compiler.store.digest import sha256_file
from compiler.targets import How
from tests import hub
from tests.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]


class Heard:
    """A report that remembers."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self._stage = ""

    def begin(self, stage: str) -> None:
        self._stage = stage

    def progress(self, done: int, total: int, unit: str) -> None:
        assert 0 <= done <= total, (self._stage, done, total, unit)

    def end(self, note: str) -> None:
        self.stages.append((self._stage, note))

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def request_for(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> Callable[..., BuildRequest]:
    def make(case: str = "llama", tp: int = 2, **changes: Any) -> BuildRequest:
        fields: dict[str, Any] = {
            "model": str(tiny_checkpoint(case)),
            "recipes": recipes,
            "ask": Ask(tp=tp, max_batch=2),
            "output": tmp_path / "artifact",
            "cache": tmp_path / "cache",
        }
        return BuildRequest(**{**fields, **changes})

    return make


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_a_build_makes_a_whole_artifact(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
    heard = Heard()
    result = build(request_for(), heard, toolchain=StandIn())
    manifest = check_artifact(result.output, by="sha256")
    assert manifest == result.manifest
    assert manifest.stand_in
    assert manifest.numerics is None
    assert sorted(path for path in tree(result.output) if path != "manifest.json") == sorted(
        file.path for file in manifest.files
    )
    assert {"tokenizer/tokenizer.json", "tokenizer/config.json"} <= tree(result.output).keys()
    assert manifest.segments is not None
    assert manifest.segments.layers == (("attn", "mlp-gated"),) * 3
    assert [stage for stage, _ in heard.stages] == ["plan", "digest", "convert", "compile", "package", "verify"]
    assert heard.warnings == []
    assert leftovers(tmp_path) == []


def test_the_same_build_elsewhere_gives_the_same_bytes(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    one = build(request_for(), toolchain=StandIn())
    copy = copied(Path(request_for().model), tmp_path / "elsewhere")
    other = request_for(model=str(copy), output=tmp_path / "b/c", cache=tmp_path / "cache2")
    two = build(other, toolchain=StandIn())
    assert tree(one.output) == tree(two.output)


def test_a_second_build_does_nothing(request_for: Callable[..., BuildRequest]) -> None:
    first = build(request_for(), toolchain=StandIn())
    before = {p: p.stat().st_mtime_ns for p in first.output.rglob("*")}
    toolchain = StandIn()
    second = build(request_for(), toolchain=toolchain)
    assert second.up_to_date
    assert (second.made, toolchain.compiled) == ({}, [])
    assert {p: p.stat().st_mtime_ns for p in first.output.rglob("*")} == before
    assert build(request_for(rehash=True), toolchain=toolchain).made == {}


def test_a_lost_artifact_comes_back_from_the_cache(request_for: Callable[..., BuildRequest]) -> None:
    first = build(request_for(), toolchain=StandIn())
    before = tree(first.output)
    shutil.rmtree(first.output)
    again = build(request_for(), toolchain=StandIn())
    assert again.made == {"package": 1}
    assert tree(again.output) == before


def test_files_are_shared_with_the_cache_and_read_only(request_for: Callable[..., BuildRequest]) -> None:
    output = build(request_for(), toolchain=StandIn()).output
    found = (output / "weights/rank0.safetensors").stat()
    assert found.st_nlink == 2
    assert not found.st_mode & 0o222


def test_on_another_disk_files_are_copied(
    request_for: Callable[..., BuildRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "another device", str(source), None, str(target))

    monkeypatch.setattr(os, "link", refuse)
    result = build(request_for(), toolchain=StandIn())
    assert (result.output / "weights/rank0.safetensors").stat().st_nlink == 1
    check_artifact(result.output, by="sha256")
    assert build(request_for(), toolchain=StandIn()).up_to_date


def test_another_tp_converts_and_compiles_again(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
    build(request_for(tp=2), toolchain=StandIn())
    other = build(request_for(tp=4, output=tmp_path / "four"), toolchain=StandIn())
    assert other.made.keys() == {"convert", "compile", "package"}


def test_what_is_compiled_does_not_depend_on_weights_or_depth(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    build(request_for(), toolchain=StandIn())
    shallow = copied(Path(request_for().model), tmp_path / "shallow")
    config = json.loads((shallow / "config.json").read_text())
    (shallow / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    tensors = load_file(shallow / "model.safetensors")
    kept = {name: tensor * 2 for name, tensor in tensors.items() if ".layers.2." not in name}
    save_file(kept, shallow / "model.safetensors", {"format": "pt"})
    toolchain = StandIn()
    result = build(request_for(model=str(shallow), output=tmp_path / "other"), toolchain=toolchain)
    assert result.made.keys() == {"convert", "package"}
    assert toolchain.compiled == []


def test_another_toolchain_compiles_again(request_for: Callable[..., BuildRequest]) -> None:
    build(request_for(), toolchain=StandIn())
    result = build(request_for(force=True), toolchain=StandIn("2"))
    assert result.made.keys() == {"compile", "package"}


@pytest.mark.parametrize("stage", ["convert", "compile"])
def test_a_damaged_cache_entry_is_made_again(request_for: Callable[..., BuildRequest], stage: str) -> None:
    first = build(request_for(), toolchain=StandIn())
    before = tree(first.output)
    shutil.rmtree(first.output)
    file = max((request_for().cache / "stages" / stage).rglob("*.*"), key=lambda p: p.stat().st_size)
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(b"\xa5\x5a\xa5")
    heard = Heard()
    again = build(request_for(), heard, toolchain=StandIn())
    assert again.made == {stage: 1, "package": 1}
    assert len(heard.warnings) == 1
    assert "damaged" in heard.warnings[0]
    assert tree(again.output) == before


@pytest.mark.parametrize("until", ["plan", "convert", "compile"])
def test_until_ends_the_build_there(request_for: Callable[..., BuildRequest], until: str) -> None:
    toolchain = StandIn()
    result = build(request_for(until=until), toolchain=toolchain)
    assert result.manifest is None
    assert not result.output.exists()
    assert list(result.made) == ["plan", "convert", "compile"][1 : ["plan", "convert", "compile"].index(until) + 1]
    assert bool(toolchain.compiled) == (until == "compile")


def test_without_a_toolchain_the_build_goes_as_far_as_it_can(request_for: Callable[..., BuildRequest]) -> None:
    class Missing(StandIn):
        def versions(self, device: str) -> dict[str, str]:
            raise ToolchainMissing(f"no compiler for {device}", hint="install one")

    heard = Heard()
    with pytest.raises(ToolchainMissing, match="no compiler for cpu") as caught:
        build(request_for(), heard, toolchain=Missing())
    assert (caught.value.exit_code, caught.value.hint) == (6, "install one")
    assert [stage for stage, _ in heard.stages] == ["plan", "digest", "convert"]
    assert "will end after convert" in heard.warnings[0]
    assert build(request_for(), toolchain=StandIn()).made.keys() == {"compile", "package"}


# --- numerics
# -------------------------------------------------------------------------------------------------------


class Real(StandIn):
    """Claims to be real, so that numerics are measured; the tests say what the logits are."""

    stand_in = False


def exact(artifact: Path, _: Any) -> Any:
    return read_reference(artifact / "reference.safetensors")[1]


def wrong(artifact: Path, ids: Any) -> Any:
    return np.roll(exact(artifact, ids), 1, axis=1)


def test_numerics_go_into_the_manifest_and_are_measured_once(
    request_for: Callable[..., BuildRequest],
) -> None:
    first = build(request_for(), toolchain=Real(), logits=exact)
    assert first.manifest is not None
    assert first.manifest.numerics is not None
    assert first.manifest.numerics.reference.startswith("transformers ")
    assert (first.manifest.numerics.kl, first.manifest.numerics.cosine) == (0.0, 1.0)
    assert check_artifact(first.output, by="sha256") == first.manifest
    second = build(request_for(), toolchain=Real(), logits=wrong)
    assert (second.made, second.up_to_date) == ({}, True)


def test_wrong_logits_put_nothing_in_place(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match="kl_median") as caught:
        build(request_for(), toolchain=Real(), logits=wrong)
    assert caught.value.exit_code == 8
    assert not (tmp_path / "artifact").exists()
    assert leftovers(tmp_path) == []
    assert build(request_for(), toolchain=Real(), logits=exact).made == {"verify": 1, "package": 1}


def test_reference_logits_are_shared_by_every_tp(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
    build(request_for(tp=1), toolchain=Real(), logits=exact)
    other = build(request_for(tp=4, output=tmp_path / "four"), toolchain=Real(), logits=exact)
    assert other.made.keys() == {"convert", "compile", "verify", "package"}


def test_without_a_tokenizer_numerics_run_on_token_ids(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    bare = copied(Path(request_for().model), tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    heard = Heard()
    result = build(request_for(model=str(bare)), heard, toolchain=Real(), logits=exact)
    assert "no tokenizer" in heard.warnings[0]
    ids, logits = read_reference(result.output / "reference.safetensors")
    assert (ids.shape, logits.shape) == ((48,), (48, 259))
    assert not (result.output / "tokenizer/tokenizer.json").exists()
    with_tokenizer = request_for(model=str(bare), tokenizer=Path(request_for().model), output=tmp_path / "with")
    assert (build(with_tokenizer, toolchain=StandIn()).output / "tokenizer/tokenizer.json").is_file()


# --- what may not be lost
# -------------------------------------------------------------------------------------------


def test_another_artifact_is_replaced_only_by_force(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
    build(request_for(tp=2), toolchain=StandIn())
    before = tree(tmp_path / "artifact")
    toolchain = StandIn()
    with pytest.raises(UsageError, match="holds another artifact") as caught:
        build(request_for(tp=4), toolchain=toolchain)
    assert "--force" in caught.value.hint
    assert toolchain.compiled == []
    assert tree(tmp_path / "artifact") == before
    result = build(request_for(tp=4, force=True), toolchain=StandIn())
    assert result.manifest is not None
    assert check_artifact(tmp_path / "artifact", by="sha256").parallel.tp == 4
    assert leftovers(tmp_path) == []


def test_replacing_works_without_exchanging(
    request_for: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(request_for(tp=2), toolchain=StandIn())
    monkeypatch.setattr("compiler.store.folder._exchange", lambda *_: False)
    build(request_for(tp=4, force=True), toolchain=StandIn())
    assert check_artifact(tmp_path / "artifact", by="sha256").parallel.tp == 4
    assert leftovers(tmp_path) == []


def test_a_damaged_artifact_is_put_right_without_force(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    build(request_for(), toolchain=StandIn())
    before = tree(tmp_path / "artifact")
    (tmp_path / "artifact/weights/rank1.safetensors").unlink()
    heard = Heard()
    build(request_for(), heard, toolchain=StandIn())
    assert "weights/rank1.safetensors: missing" in heard.warnings[0]
    assert tree(tmp_path / "artifact") == before


def test_a_folder_that_is_no_artifact_is_never_replaced(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    precious = tmp_path / "artifact"
    precious.mkdir()
    build(request_for(until="plan"), toolchain=StandIn())  # an empty folder is no obstacle
    (precious / "thesis.tex").write_text("years")
    for force in (False, True):
        with pytest.raises(UsageError, match="is not an artifact"):
            build(request_for(force=force), toolchain=StandIn())
    assert tree(precious).keys() == {"thesis.tex"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        build(request_for(output=tmp_path / "file", force=True), toolchain=StandIn())


# --- bad input
# ------------------------------------------------------------------------------------------------------


def test_a_truncated_source_is_refused_before_anything_is_written(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    broken = copied(Path(request_for().model), tmp_path / "broken")
    with (broken / "model.safetensors").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 1)
    with pytest.raises(CheckpointError, match="truncated"):
        build(request_for(model=str(broken)), toolchain=StandIn())
    assert not (tmp_path / "artifact").exists()
    assert not (tmp_path / "cache").exists()


def test_a_tp_that_does_not_fit_names_those_that_do(request_for: Callable[..., BuildRequest]) -> None:
    with pytest.raises(ParallelError, match="tp 3") as caught:
        build(request_for(tp=3), toolchain=StandIn())
    assert "1, 2, 4, 8" in caught.value.hint


def test_tp_max_is_the_most_that_fits_on_the_devices(request_for: Callable[..., BuildRequest]) -> None:
    assert build(request_for(devices=7, until="plan"), toolchain=StandIn()).plan.tp == 4


@pytest.mark.parametrize(("field", "value"), [("how", How(march="x86-64-v9")), ("until", "lunch")])
def test_unknown_words_are_usage_errors(
    request_for: Callable[..., BuildRequest], tmp_path: Path, field: str, value: object
) -> None:
    with pytest.raises(UsageError, match=r"x86-64-v9|lunch"):
        build(request_for(**{field: value}), toolchain=StandIn())
    assert not (tmp_path / "cache").exists()


def test_a_tokenizer_folder_without_one_is_refused(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no tokenizer in"):
        build(request_for(tokenizer=tmp_path), toolchain=StandIn())


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_while_packaging_leaves_nothing(
    request_for: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("compiler.stages.package._link", lambda *_: False)
        patch.setattr(os, "copy_file_range", full)
        with pytest.raises(DiskFullError, match=r"no space for .*needs [\d,]+ bytes, [\d,]+ are free"):
            build(request_for(), toolchain=StandIn())
    assert not (tmp_path / "artifact").exists()
    assert leftovers(tmp_path) == []
    assert build(request_for(), toolchain=StandIn()).made == {"package": 1}


def test_a_full_disk_under_the_cache_is_told_of(
    request_for: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compiler.store.cache.write_through", full)
    with pytest.raises(DiskFullError, match="no space left") as caught:
        build(request_for(), toolchain=StandIn())
    assert caught.value.exit_code == 5
    assert not (tmp_path / "artifact").exists()
    assert list((tmp_path / "cache/work").iterdir()) == []


def test_convert_writes_rank_files_alone(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
    request = request_for()
    plain = PlanRequest(model=request.model, recipes=recipes, ask=request.ask, cache=request.cache)
    plan = convert_to(plain, tmp_path / "out")
    artifact = build(request, toolchain=StandIn()).output
    found = tree(tmp_path / "out")
    assert found.keys() == {rank.file for rank in plan.ranks}
    assert found.items() <= tree(artifact).items()
    with pytest.raises(UsageError, match="is not empty"):
        convert_to(plain, tmp_path / "out")
    assert leftovers(tmp_path) == []


# --- processes
# ------------------------------------------------------------------------------------------------------

SLOW_BUILD = """
import sys
from pathlib import Path
import recipes
from compiler.pipeline.build import build
from compiler.pipeline.requests import BuildRequest
from compiler.stages.plan import Ask
from tests import hub
from tests.stand_in import StandIn
model, output, cache = sys.argv[1:]
request = BuildRequest(model=model, recipes=recipes, ask=Ask(tp=2, max_batch=2), output=Path(output), cache=Path(cache))
print("ready", flush=True)
build(request, toolchain=StandIn(delay=0.01))
"""


def test_a_build_killed_at_any_moment_is_finished_by_the_next(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    """The moments are spread over one whole build; after every kill nothing half-made is at the output."""
    reference = tree(build(request_for(output=tmp_path / "undisturbed"), toolchain=StandIn()).output)
    output, cache = tmp_path / "victim", tmp_path / "victims-cache"
    argv = [sys.executable, "-c", SLOW_BUILD, request_for().model, str(output), str(cache)]
    chance = random.Random(7)
    kills = 0
    for attempt in range(12):
        with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 0.6))
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
        if output.exists():
            assert tree(output) == reference
            shutil.rmtree(output)
        if attempt % 4 == 3:
            shutil.rmtree(cache, ignore_errors=True)
    assert kills >= 6
    heard = Heard()
    result = build(request_for(output=output, cache=cache), heard, toolchain=StandIn())
    assert tree(result.output) == reference
    assert heard.warnings == []
    assert leftovers(tmp_path) == []
    assert list((cache / "work").iterdir()) == []


def build_beside(request: BuildRequest, log: Path) -> None:
    toolchain = StandIn(delay=0.02)
    build(replace(request, recipes=recipes), toolchain=toolchain)
    with log.open("a") as file:
        file.writelines(f"{name}\n" for name in toolchain.compiled)


@pytest.mark.parametrize("same_output", [True, False])
def test_builds_at_once_share_the_work(
    request_for: Callable[..., BuildRequest], tmp_path: Path, same_output: bool
) -> None:
    context = multiprocessing.get_context("fork")
    outputs = [tmp_path / ("one" if same_output else f"out{i}") for i in range(3)]
    log = tmp_path / "log"
    processes = [context.Process(target=build_beside, args=(request_for(output=output), log)) for output in outputs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    compiled = log.read_text().splitlines()
    assert len(compiled) == len(set(compiled)) == 12
    assert len({tuple(tree(output).items()) for output in outputs}) == 1
    assert leftovers(tmp_path) == []


HUB_BUILD = """
import json, sys
from pathlib import Path
import recipes
from compiler.pipeline.build import build
from compiler.pipeline.requests import BuildRequest
from tests import hub
from tests.stand_in import StandIn
model, output, cache = sys.argv[1:]
hashed = []
import compiler.store.digest as digest
whole = digest.sha256_file
digest.sha256_file = lambda path: hashed.append(path.name) or whole(path)
request = BuildRequest(model=model, recipes=recipes, output=Path(output), cache=Path(cache))
made = build(request, toolchain=StandIn()).manifest
print(json.dumps({"model": made.model.model_dump(), "name": made.name, "hashed": hashed}))
"""


def test_a_model_of_a_hub_is_named_by_its_commit_and_not_hashed(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    with hub.serve() as server:
        commit = server.add("owner/tiny-llama", tiny_checkpoint("llama"))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", HUB_BUILD, "owner/tiny-llama", str(tmp_path / "out"), str(tmp_path / "cache")],
            env={**clean, **server.environment(tmp_path / "home")},
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
    told = json.loads(done.stdout)
    assert (told["model"]["source"], told["model"]["repo_id"], told["model"]["revision"]) == (
        "hub",
        "owner/tiny-llama",
        commit,
    )
    assert told["name"] == "tiny-llama-inductor-tp1-bfloat16"
    assert "model.safetensors" not in told["hashed"]
