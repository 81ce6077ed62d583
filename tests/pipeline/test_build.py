"""Builds: what they make, and what they do not make twice."""

from __future__ import annotations

import errno
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import recipes
from compiler.errors import ArtifactError, ToolchainMissing, UsageError
from compiler.numerics.intact import intact
from compiler.numerics.verify import verify
from compiler.pipeline.build import build
from compiler.pipeline.convert_only import convert_to
from compiler.pipeline.request import BuildRequest, PlanRequest
from compiler.runtime.generate import load
from compiler.runtime.section import Segments, check_artifact
from tests.builds import Heard, copied, leftovers, tree
from tests.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable


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
    assert isinstance(manifest.section, Segments)
    assert manifest.section.layers == (("attn", "mlp-gated"),) * 3
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


def test_specs_do_not_depend_on_weights_or_depth(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
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


@pytest.mark.parametrize("read", [verify, partial(intact, by="crc"), load])
def test_an_artifact_of_a_newer_version_is_not_read_as_another_model(
    read: Callable[[Path], object], request_for: Callable[..., BuildRequest]
) -> None:
    output = build(request_for(), toolchain=StandIn()).output
    data = json.loads((output / "manifest.json").read_text())
    data["model"]["config"]["future_scale"] = 0.5
    (output / "manifest.json").unlink()
    (output / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="future_scale"):
        read(output)
