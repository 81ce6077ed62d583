from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.testbed import artifacts
from benchmarks.testbed.artifacts import content, write_random
from compiler.errors import ArtifactError, ConflictError, NotFoundError, RefusedError, UsageError
from compiler.registry.layout import LAYOUTS, Layout
from compiler.registry.pull import pull
from compiler.registry.push import push
from compiler.registry.refs import promote
from compiler.registry.resolve import resolve
from compiler.storage.files.digest import digest_bytes
from compiler.storage.objects import open_store


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


def test_pulled_bytes_are_the_pushed_ones(tmp_path: Path, store: str, layout: Layout) -> None:
    artifact = write_random(tmp_path / "a", size=20_000_000)  # two parts each
    (artifact / "manifest.json.sig").write_bytes(b"signature")
    (artifact / "not-listed").write_bytes(b"stays here")
    pushed = push(artifact, f"{store}tiny@v1", layout=layout)
    assert pushed.sent == pushed.nbytes > 40_000_000
    assert pushed.digest == digest_bytes((artifact / "manifest.json").read_bytes())
    pulled = pull(f"{store}tiny@v1", tmp_path / "b")
    assert pulled.fetched == pulled.nbytes == pushed.nbytes
    (artifact / "not-listed").unlink()
    assert content(tmp_path / "b") == content(artifact)
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert pull(f"{store}tiny@{pushed.digest}", tmp_path / "b").up_to_date
    assert push(artifact, f"{store}tiny@v1", layout=layout).sent == 0
    found = resolve(f"{store}tiny@v1")
    assert (found.name, found.digest, found.layout, found.ref) == ("tiny", pushed.digest, layout, "v1")
    assert found.uri == pushed.uri
    opened = open_store(store)
    assert [item.key for item in opened.walk(".")] == []  # no lease, no probe is left
    assert list(opened.unfinished("")) == []
    assert list((tmp_path / "cache-of-the-tests/uploads").iterdir()) == []


def test_a_plain_artifact_can_be_read_in_place(tmp_path: Path, local_store: str) -> None:
    artifact = write_random(tmp_path / "a")
    pushed = push(artifact, local_store)
    prefix = Path(pushed.uri.removeprefix("file://"))
    assert prefix == Path(local_store) / "tiny" / pushed.digest.removeprefix("sha256:")
    assert content(prefix) == content(artifact)


def test_only_what_is_new_is_sent_and_fetched(tmp_path: Path, local_store: str) -> None:
    one, two = write_random(tmp_path / "a", 1), write_random(tmp_path / "b", 1)
    shutil.copytree(write_random(tmp_path / "c", 2), two, dirs_exist_ok=True)
    same = sum(len(data) for path, data in artifacts.CONTENT.items() if "rank" not in path)
    push(one, f"{local_store}tiny@1", layout="cas")
    assert push(two, f"{local_store}tiny@2", layout="cas").sent == 800
    pull(f"{local_store}tiny@1", tmp_path / "out")
    pulled = pull(f"{local_store}tiny@2", tmp_path / "out")
    assert (pulled.fetched, pulled.reused) == (800, same)
    assert content(tmp_path / "out") == content(two)


def test_local_changes_are_repaired(tmp_path: Path, local_store: str) -> None:
    artifact = write_random(tmp_path / "a")
    push(artifact, f"{local_store}tiny@1")
    pull(f"{local_store}tiny@1", tmp_path / "out")
    damaged = tmp_path / "out/weights/rank0.safetensors"
    damaged.chmod(0o644)
    damaged.write_bytes(bytes(400))
    (tmp_path / "out/weights/rank1.safetensors").unlink()
    assert pull(f"{local_store}tiny@1", tmp_path / "out").fetched == 800
    assert content(tmp_path / "out") == content(artifact)


def test_one_rank(tmp_path: Path, local_store: str) -> None:
    artifact = write_random(tmp_path / "a", ranks=3)
    push(artifact, f"{local_store}tiny@1")
    pull(f"{local_store}tiny@1", tmp_path / "out", rank=1)
    weights = tmp_path / "out/weights"
    assert [path.name for path in weights.iterdir()] == ["rank1.safetensors"]
    assert (tmp_path / "out/tokenizer/tokenizer.json").exists()
    assert pull(f"{local_store}tiny@1", tmp_path / "out", rank=2).fetched == 400
    assert sorted(path.name for path in weights.iterdir()) == ["rank1.safetensors", "rank2.safetensors"]
    with pytest.raises(UsageError, match="no files of rank 3; it has those of: 0, 1, 2"):
        pull(f"{local_store}tiny@1", tmp_path / "out", rank=3)


def test_a_script_may_be_run(tmp_path: Path, local_store: str) -> None:
    artifact = write_random(tmp_path / "a")
    script = b"#!/bin/sh\n"
    (artifact / "tokenizer/tokenizer.json").write_bytes(script)
    files = [
        file.model_copy(update={"digest": digest_bytes(script), "size": len(script)}) if "json" in file.path else file
        for file in artifacts.manifest().files
    ]
    artifacts.write(artifact)
    (artifact / "tokenizer/tokenizer.json").write_bytes(script)
    (artifact / "manifest.json").write_bytes(artifacts.manifest(files=tuple(files)).to_bytes())
    push(artifact, f"{local_store}tiny@1")
    pull(f"{local_store}tiny@1", tmp_path / "out")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*.*")}
    assert modes["tokenizer.json"] == 0o555
    assert modes["manifest.json"] == modes["rank0.safetensors"] == 0o444


def test_a_tag_of_a_push_does_not_move(tmp_path: Path, store: str) -> None:
    one, two = write_random(tmp_path / "a", 1), write_random(tmp_path / "b", 2)
    first = push(one, f"{store}tiny@v1")
    with pytest.raises(ConflictError, match="v1` points to sha256:"):
        push(two, f"{store}tiny@v1")
    assert resolve(f"{store}tiny@v1").digest == first.digest
    push(one, store)
    second = push(two, store)
    assert (second.name, second.ref) == ("tiny", "latest")
    assert resolve(f"{store}tiny@latest").digest == second.digest
    for tag in ("latest", "current", first.digest):
        with pytest.raises(UsageError, match="a push makes a tag of its own"):
            push(one, f"{store}tiny@{tag}")


def test_refused_before_anything_is_written(tmp_path: Path, local_store: str) -> None:
    with pytest.raises(RefusedError, match="stand-in"):
        push(write_random(tmp_path / "a", stand_in=True), local_store)
    with pytest.raises(ArtifactError, match="expected a folder with"):
        push(tmp_path, local_store)
    short = write_random(tmp_path / "b")
    (short / "weights/rank0.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="rank0"):
        push(short, local_store)
    with pytest.raises(UsageError, match="name of an artifact"):
        push(write_random(tmp_path / "c", name="no good name"), local_store)
    assert not Path(local_store).exists()


def test_a_file_that_changed_since_the_build_is_not_published(tmp_path: Path, store: str) -> None:
    artifact = write_random(tmp_path / "a", size=20_000_000)
    with (artifact / "weights/rank1.safetensors").open("r+b") as file:
        file.seek(19_000_000)
        file.write(b"change")
    with pytest.raises(ArtifactError, match=r"rank1.safetensors: expected 20000000 bytes with sha256:"):
        push(artifact, store)
    opened = open_store(store)
    assert [item.key for item in opened.walk("") if "manifest" in item.key or "refs" in item.key] == []
    assert [one.key for one in opened.unfinished("") if "rank1" in one.key] == []


def test_damage_in_the_store_is_found_and_repaired(tmp_path: Path, store: str) -> None:
    artifact = write_random(tmp_path / "a")
    push(artifact, f"{store}tiny@1")
    found = resolve(f"{store}tiny@1")
    key = next(found.key(file) for file in found.manifest.files if "rank1" in file.path)
    found.store.put(key, bytes(400))
    with pytest.raises(ArtifactError, match="1 damaged file") as caught:
        pull(found, tmp_path / "out")
    assert "--repair" in caught.value.hint
    assert not (tmp_path / "out").exists()
    assert push(artifact, f"{store}tiny@1").sent == 0
    assert push(artifact, f"{store}tiny@1", repair=True).sent == 400
    pull(found, tmp_path / "out")
    assert content(tmp_path / "out") == content(artifact)


def test_a_damaged_manifest_or_ref_is_told(tmp_path: Path, local_store: str) -> None:
    found = resolve(push(write_random(tmp_path / "a"), f"{local_store}tiny@1").address)
    found.store.put(found.manifest_key, found.data[:-2])
    with pytest.raises(ArtifactError, match=r"manifest .* is damaged"):
        pull(f"{local_store}tiny@1", tmp_path / "out")
    for wrong in (b"{", b"{}", found.store.read("tiny/refs/1.json")[0].replace(b'"push"', b'"pull"')):
        found.store.put("tiny/refs/1.json", wrong)
        with pytest.raises(ArtifactError, match=r"tag .* is damaged"):
            resolve(f"{local_store}tiny@1")


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, local_store: str) -> None:
    push(write_random(tmp_path / "a"), f"{local_store}tiny@1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis").write_text("years of work")
    with pytest.raises(UsageError, match="not an artifact"):
        pull(f"{local_store}tiny@1", tmp_path / "mine")
    with pytest.raises(UsageError, match="not a folder"):
        pull(f"{local_store}tiny@1", tmp_path / "mine/thesis")
    assert content(tmp_path / "mine") == {"thesis": b"years of work"}


def test_missing_names_tags_and_digests(tmp_path: Path, store: str) -> None:
    with pytest.raises(NotFoundError, match="no tags of `tiny`"):
        resolve(f"{store}tiny")
    pushed = push(write_random(tmp_path / "a"), store)
    with pytest.raises(NotFoundError, match="no tag `current`; it has `@latest`") as caught:
        resolve(f"{store}tiny")
    assert f"promote {store}tiny@latest --to current" in caught.value.hint.replace("file://", "")
    with pytest.raises(NotFoundError, match="no artifact sha256:0"):
        resolve(f"{store}tiny@sha256:{'0' * 64}")
    with pytest.raises(UsageError, match="is a store"):
        resolve(store)
    promote(f"{store}tiny@latest")
    assert resolve(f"{store}tiny").address == pushed.address


def test_without_a_home_to_write_in(tmp_path: Path, local_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = write_random(tmp_path / "a", size=2_000_000)
    push(artifact, f"{local_store}tiny@1")
    (tmp_path / "file").touch()
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path / "file"))
    pull(f"{local_store}tiny@1", tmp_path / "out")
    assert pull(f"{local_store}tiny@1", tmp_path / "out").up_to_date
