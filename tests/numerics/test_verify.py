"""`verify` on really compiled artifacts: right ones pass, every mutation turns it red."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

import recipes
from compiler.artifact.manifest import MANIFEST, Manifest, load_manifest
from compiler.errors import ArtifactError, IncompatibleError, NumericsError, SourceError
from compiler.numerics.passages import REFERENCE, Expected, Passage, read_reference, write_reference
from compiler.numerics.verify import check_layout, verify
from compiler.pipeline.request import PlanRequest
from compiler.pipeline.verify_source import source_logits
from compiler.runtime.generate import Model
from compiler.storage.files.digest import describe
from compiler.targets.inductor.runtime import SegmentRunner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
from typing import Any

RANKS = ("weights/rank0.safetensors", "weights/rank1.safetensors")


@pytest.fixture
def artifact(tiny_artifact: Callable[[str, int], Path], tmp_path: Path) -> Path:
    """A copy that may be changed."""
    shutil.copytree(tiny_artifact("mixtral", 2), tmp_path / "artifact", copy_function=shutil.copyfile)
    return tmp_path / "artifact"


def edit(artifact: Path, change: Callable[[dict[str, torch.Tensor]], None], rank: int = 0) -> None:
    tensors = load_file(artifact / RANKS[rank])
    change(tensors)
    save_file(tensors, artifact / RANKS[rank], {"format": "pt"})


def fix_digests(artifact: Path) -> Manifest:
    """Make the manifest state what the files are now."""
    data = json.loads((artifact / MANIFEST).read_text())
    for file in data["files"]:
        found = describe(artifact, file["path"])
        file.update(digest=found.digest, size=found.size)
    (artifact / MANIFEST).write_text(json.dumps(data))
    return load_manifest(artifact)


def test_a_right_artifact_passes_and_tells_its_figures(artifact: Path) -> None:
    told: list[tuple[int, int]] = []
    manifest = verify(artifact, progress=lambda done, total: told.append((done, total)))
    assert manifest.numerics is not None
    assert manifest.numerics.kl_median < 1e-6
    assert manifest.numerics.top1_agreement == 1.0
    assert told[-1][0] == told[-1][1] == sum(file.size for file in manifest.files)


def test_one_flipped_byte_is_found(artifact: Path) -> None:
    file = artifact / RANKS[1]
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"weights/rank1\.safetensors: expected sha256"):
        verify(artifact)


def swap_ranks(artifact: Path) -> None:
    (artifact / RANKS[0]).rename(artifact / "other")
    (artifact / RANKS[1]).rename(artifact / RANKS[0])
    (artifact / "other").rename(artifact / RANKS[1])


def double_a_norm(artifact: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["layers.1.attn.norm.weight"] = tensors["layers.1.attn.norm.weight"] * 2

    for rank in (0, 1):
        edit(artifact, change, rank)


def swap_gate_and_up(artifact: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        gate, up = tensors["layers.0.moe.gate_up.weight"].chunk(2, dim=1)
        tensors["layers.0.moe.gate_up.weight"] = torch.cat([up, gate], dim=1)

    edit(artifact, change)


def turn_experts(artifact: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["layers.2.moe.down.weight"] = tensors["layers.2.moe.down.weight"].roll(1, dims=0)

    edit(artifact, change)


@pytest.mark.parametrize("mutate", [swap_ranks, double_a_norm, swap_gate_and_up, turn_experts])
def test_a_mutation_with_right_digests_turns_numerics_red(artifact: Path, mutate: Callable[[Path], None]) -> None:
    mutate(artifact)
    fix_digests(artifact)
    with pytest.raises(NumericsError, match="does not compute what the model computes") as caught:
        verify(artifact)
    assert caught.value.exit_code == 8


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["layers.0.attn.o.weight"]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["layers.9.attn.o.weight"] = torch.zeros(1)


def transpose(tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.weight"] = tensors["head.weight"].T.contiguous()


def narrow(tensors: dict[str, torch.Tensor]) -> None:
    tensors["embed.weight"] = tensors["embed.weight"].bfloat16()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, r"`layers\.0\.attn\.o\.weight`: expected F32 \[64, .*\], found nothing"),
        (add, r"`layers\.9\.attn\.o\.weight`: expected nothing, found F32 \[1\]"),
        (transpose, r"`head\.weight`: expected F32 \[130, 64\], found F32 \[64, 130\]"),
        (narrow, r"`embed\.weight`: expected F32 \[130, 64\], found BF16"),
    ],
)
def test_rank_files_that_do_not_fit_the_config(
    artifact: Path, change: Callable[[dict[str, torch.Tensor]], None], words: str
) -> None:
    edit(artifact, change)
    with pytest.raises(ArtifactError, match=words):
        check_layout(fix_digests(artifact), artifact)


def test_a_rank_file_whose_header_lies(artifact: Path) -> None:
    file = artifact / RANKS[0]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match=r"rank0\.safetensors: truncated"):
        check_layout(fix_digests(artifact), artifact)


def test_an_artifact_of_another_torch_is_refused_before_anything_runs(artifact: Path) -> None:
    data = json.loads((artifact / MANIFEST).read_text())
    data["toolchain"]["torch"] = "2.9.1"
    (artifact / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(IncompatibleError, match=r"built with torch 2\.9\.1"):
        verify(artifact)


def test_nothing_is_written(artifact: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in artifact.rglob("*")}
    artifact.chmod(0o555)
    try:
        verify(artifact)
    finally:
        artifact.chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in artifact.rglob("*")} == before


def test_the_stored_logits_need_not_be_believed(
    artifact: Path, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whoever forges the weights can forge reference.safetensors too, but not the source."""
    request = PlanRequest(model=str(tiny_checkpoint("mixtral")), recipes=recipes, cache=tmp_path / "cache")
    expected = source_logits(artifact, request)
    verify(artifact, expected=expected)
    double_a_norm(artifact)
    fix_digests(artifact)
    rows = read_reference(artifact / REFERENCE).straight.rows
    forged = Passage.of(rows, SegmentRunner().logits(artifact, rows))
    write_reference(artifact / REFERENCE, Expected(forged))
    fix_digests(artifact)
    verify(artifact)
    with pytest.raises(NumericsError):
        verify(artifact, expected=expected)


def test_another_source_is_refused(artifact: Path, tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    other = PlanRequest(model=str(tiny_checkpoint("mixtral/window")), recipes=recipes, cache=tmp_path / "cache")
    with pytest.raises(SourceError, match="was not made of"):
        source_logits(artifact, other)


def test_a_wrong_package_for_batches_is_found(artifact: Path) -> None:
    """Prefill and decode steps of one row are right, those of several rows are not."""
    with pytest.MonkeyPatch.context() as patch:
        logits = Model.logits_of_rows

        def forget_the_first_token(self: Model, rows: Any, **more: Any) -> Any:
            return logits(self, rows if len(rows) == 1 else [[ids[1], *ids[1:]] for ids in rows], **more)

        patch.setattr(Model, "logits_of_rows", forget_the_first_token)
        with pytest.raises(NumericsError):
            verify(artifact)
