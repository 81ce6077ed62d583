from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.testbed.artifacts import manifest, write
from compiler.artifact.check import check_files
from compiler.artifact.manifest import Coverage, json_schema, load_manifest, parse_manifest
from compiler.artifact.sections import Section
from compiler.artifact.sign import check_signed, sign
from compiler.errors import ArtifactError, IncompatibleError
from compiler.registry.pull import pull
from compiler.registry.push import push
from compiler.registry.resolve import resolve
from compiler.runtime.section import runnable
from compiler.storage.files.digest import digest_bytes
from compiler.targets.trtllm.section import Engines
from tests.artifact.test_sign import make_pair

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = Path(__file__).parents[1] / "snapshots/manifest.schema.json"


def test_the_schema_is_the_committed_one() -> None:
    """After a change that is meant: `python -m compiler.artifact.manifest >
    tests/snapshots/manifest.schema.json`.
    """
    assert json_schema().decode() == SCHEMA.read_text()


def test_a_manifest_reads_back_as_itself(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(manifest().to_bytes())
    assert load_manifest(tmp_path) == manifest()
    assert load_manifest(tmp_path).to_bytes() == manifest().to_bytes()


def test_equal_manifests_have_equal_bytes_whatever_the_order() -> None:
    data = json.loads(manifest().to_bytes())
    shuffled = json.dumps(dict(reversed(data.items()))).encode()
    assert parse_manifest(shuffled).to_bytes() == manifest().to_bytes()
    assert parse_manifest(shuffled).digest == manifest().digest


def test_the_coverage_of_a_proof_is_read_and_one_without_keeps_its_bytes() -> None:
    figures = {"max_abs": 0.1, "mean_abs": 0.01, "cosine": 1.0, "top1_agreement": 1.0, "kl": 0.0, "kl_median": 0.0}
    numerics: dict[str, Any] = {"reference": "x", "reference_file": None, "tokens": 48, "thresholds": {}, **figures}
    older = parse_manifest(edit(lambda data: data.update(numerics=numerics)))
    assert older.numerics is not None
    assert older.numerics.coverage is None
    assert "coverage" not in json.loads(older.to_bytes())["numerics"]
    coverage = {"rows": [160, 40], "window": 4096, "lowered_rows": [64], "lowered_window": 16}
    newer = parse_manifest(edit(lambda data: data.update(numerics={**numerics, "coverage": coverage})))
    assert newer.numerics is not None
    assert newer.numerics.coverage == Coverage(rows=(160, 40), window=4096, lowered_rows=(64,), lowered_window=16)
    assert parse_manifest(newer.to_bytes()) == newer


def edit(change: Callable[[dict[str, Any]], Any]) -> bytes:
    data = json.loads(manifest().to_bytes())
    change(data)
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    "path",
    ["../outside", "/etc/passwd", "weights/../../x", "", ".", "weights//rank0", "./weights", "a\\b"],
)
def test_paths_stay_inside_the_folder(path: str) -> None:
    with pytest.raises(ArtifactError, match=r"files\.0\.path"):
        parse_manifest(edit(lambda data: data["files"][0].update(path=path)))


def test_files_that_a_newer_version_stores_otherwise_are_refused_with_the_remedy() -> None:
    with pytest.raises(ArtifactError, match=r"files\.0\.codec: .*expected codec `none`, found 'zstd': upgrade"):
        parse_manifest(edit(lambda data: data["files"][0].update(codec="zstd")))
    before = parse_manifest(edit(lambda data: [file.pop("codec") for file in data["files"]]))
    assert before == manifest()


ENGINES: dict[str, Any] = {
    "version": "0.12.0",
    "image": None,
    "container": None,
    "quant_algo": "",
    "checkpoint": {},
    "checkpoint_files": [],
    "files": [],
    "limits": {"max_batch_size": 1, "max_input_len": 1, "max_seq_len": 2, "max_num_tokens": 2},
    "argv": ["trtllm-build"],
}

CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "extra field": lambda data: data.update(made_at="today"),
    "missing field": lambda data: data.pop("target"),
    "number as text": lambda data: data["parallel"].update(tp="2"),
    "flag as number": lambda data: data.update(stand_in=1),
    "short digest": lambda data: data["files"][0].update(digest="sha256:12"),
    "negative size": lambda data: data["files"][0].update(size=-1),
    "no ranks": lambda data: data["parallel"].update(tp=0),
    "a rank that no file holds": lambda data: data["parallel"].update(tp=3),
    "a package that is no file": lambda data: data["section"]["packages"].update({"head.prefill": "packages/none.pt2"}),
    "a layer without a package": lambda data: data["section"]["layers"].append(["attn-window8", "mlp-gated"]),
    "no section": lambda data: data.pop("section"),
    "the section of another target": lambda data: data.update(section=ENGINES),
    "a section of an earlier schema": lambda data: data.update(engines=ENGINES),
    "one path twice": lambda data: data["files"].append(data["files"][0]),
    "itself": lambda data: data["files"].append({**data["files"][0], "path": "manifest.json"}),
    "other schema": lambda data: data.update(schema_version=0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_wrong_manifest_is_refused(change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json is not a manifest") as caught:
        parse_manifest(edit(change))
    assert caught.value.hint


def test_all_problems_are_listed() -> None:
    with pytest.raises(ArtifactError) as caught:
        parse_manifest(edit(lambda data: (data.pop("target"), data.pop("name"))))
    assert "target" in caught.value.message
    assert "name" in caught.value.message


def test_a_newer_schema_says_upgrade() -> None:
    with pytest.raises(ArtifactError, match="schema version 3") as caught:
        parse_manifest(edit(lambda data: data.update(schema_version=3)))
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_no_json_is_an_artifact_error(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        parse_manifest(data)


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        load_manifest(tmp_path / "nothing")


def with_engines(**changes: Any) -> bytes:
    return edit(lambda data: data.update(target="trtllm", section={**ENGINES, **changes}))


def test_engines_are_a_section_of_their_own() -> None:
    found = parse_manifest(with_engines(files=["weights/rank0.safetensors"]))
    assert isinstance(found.section, Engines)
    assert found.section.rank_files == ("weights/rank0.safetensors",)
    assert (found.parallel.pp, found.parallel.moe_ep) == (1, 1)
    with pytest.raises(ArtifactError, match="not among `files`: rank1"):
        parse_manifest(with_engines(files=["rank1.engine"]))


def test_an_artifact_for_a_container_does_not_run_here() -> None:
    runnable(manifest())
    with pytest.raises(IncompatibleError, match="in a serving container") as caught:
        runnable(parse_manifest(with_engines()))
    assert "--target inductor" in caught.value.hint


SCHEMA_1 = Path(__file__).parent / "schema1"
"""Manifests as lmi-compile 0.1.0 wrote them, of the files of `made.CONTENT`."""


@pytest.mark.parametrize("name", ["segments", "engines"])
def test_a_manifest_of_schema_1_is_read_and_keeps_its_bytes(name: str) -> None:
    data = (SCHEMA_1 / f"{name}.json").read_bytes()
    found = parse_manifest(data)
    assert (found.schema_version, found.writer) == (2, "")
    assert found.section.rank_files == ("weights/rank0.safetensors", "weights/rank1.safetensors")
    assert (found.to_bytes(), found.digest) == (data, digest_bytes(data))
    changed = found.model_copy(update={"name": "other"})
    assert parse_manifest(changed.to_bytes()) == changed
    assert b'"section"' in changed.to_bytes()


def test_a_manifest_of_schema_1_is_the_same_artifact_as_now() -> None:
    found = parse_manifest((SCHEMA_1 / "segments.json").read_bytes())
    model = manifest().model.model_copy(update={"config": {"layers": 1}})
    assert found.substance == manifest(model=model).substance
    assert found.substance == manifest(model=model, writer="0.2.0").substance


@pytest.mark.parametrize("change", [{"segments": None}, {"engines": ENGINES}, {"section": {}}])
def test_a_manifest_of_schema_1_without_one_section_is_refused(change: dict[str, Any]) -> None:
    data = json.loads((SCHEMA_1 / "segments.json").read_bytes())
    with pytest.raises(ArtifactError, match="is not a manifest of an artifact"):
        parse_manifest(json.dumps({**data, **change}).encode())


def test_the_section_of_a_target_that_is_not_installed_is_kept() -> None:
    data = edit(lambda data: data.update(target="elsewhere", section={"graphs": ["a", {"b": 1}]}))
    found = parse_manifest(data)
    assert type(found.section) is Section
    assert json.loads(found.to_bytes()) == json.loads(data)
    assert (found.section.paths, found.section.image_tag, found.section.unfinished) == ((), None, "")
    for target in ("../../etc", "a.b", "protocols"):
        changed = json.loads(data) | {"target": target}
        assert type(parse_manifest(json.dumps(changed).encode()).section) is Section


def test_an_artifact_of_schema_1_is_signed_published_and_fetched_with_its_own_bytes(tmp_path: Path) -> None:
    data = (SCHEMA_1 / "segments.json").read_bytes()
    folder = write(tmp_path / "old", manifest())
    (folder / "manifest.json").write_bytes(data)
    private, public = make_pair(tmp_path, "key")
    sign(folder, str(private))
    check_signed(folder, public)
    check_files(load_manifest(folder), folder, by="sha256")
    pushed = push(folder, f"file://{tmp_path}/store/old@v1")
    assert pushed.digest == digest_bytes(data)
    pull(resolve(f"file://{tmp_path}/store/old@v1"), tmp_path / "back")
    assert (tmp_path / "back/manifest.json").read_bytes() == data
    check_signed(tmp_path / "back", public)
