"""sign, scan, verify --quick and --require-signature, pull --require-signature, as a script sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from benchmarks.testbed.artifacts import write_random
from compiler.artifact.manifest import load_manifest
from compiler.cli import app
from compiler.errors import ArtifactError, RefusedError, SignatureError, UsageError
from tests.artifact.test_sign import make_pair
from tests.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of a toolchain that compiles nothing."""
    import recipes
    from compiler.api import Ask, BuildRequest
    from compiler.pipeline.build import build

    folder = tmp_path_factory.mktemp("made")
    request = BuildRequest(
        model=str(tiny_checkpoint("llama")), recipes=recipes, ask=Ask(tp=2), output=folder / "a", cache=folder / "cache"
    )
    return build(request, toolchain=StandIn()).output


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "artifact", copy_function=shutil.copyfile))


def run(*arguments: object) -> Any:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_quick_look_finds_damage(artifact: Path) -> None:
    assert run("verify", artifact, "--quick") == {"name": load_manifest(artifact).name, "numerics": None}
    weights = artifact / "weights/rank1.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"rank1\.safetensors: expected crc32:"):
        run("verify", artifact, "--quick")


def test_a_quick_look_proves_nothing_against_forgers(artifact: Path, tmp_path: Path) -> None:
    for words in (["--require-signature", make_pair(tmp_path, "key")[1]], ["--model", "mixtral"]):
        with pytest.raises((UsageError, SignatureError)):
            run("verify", artifact, "--quick", *words)


def test_a_signed_artifact_verifies(artifact: Path, tmp_path: Path) -> None:
    private, public = make_pair(tmp_path, "key")
    with pytest.raises(SignatureError, match="is not signed"):
        run("verify", artifact, "--require-signature", public)
    assert run("sign", artifact, "--key", private) == {"signature": f"{artifact}/manifest.json.sig"}
    run("verify", artifact, "--require-signature", public)


def test_every_artifact_tells_how_it_was_made_and_of_what(made: Path) -> None:
    files = {file.path: file for file in load_manifest(made).files}
    statement = json.loads((made / "provenance.json").read_bytes())
    assert {subject["name"] for subject in statement["subject"]} == files.keys() - {"provenance.json"}
    bill = json.loads((made / "sbom.cdx.json").read_bytes())
    assert {c["name"] for c in bill["components"] if c["type"] == "file"} == files.keys() - {
        "provenance.json", "sbom.cdx.json"
    }  # fmt: skip
    assert all(file.crc is not None for file in files.values())
    assert run("scan", made) == {"files": len(files), "findings": []}


def test_a_store_takes_no_secret_and_gives_only_what_is_signed(tmp_path: Path) -> None:
    private, public = make_pair(tmp_path, "key")
    store, folder = f"{tmp_path}/store/", write_random(tmp_path / "a", 1)
    run("push", folder, f"{store}tiny@unsigned")
    with pytest.raises(SignatureError, match="is not signed"):
        run("pull", f"{store}tiny@unsigned", tmp_path / "out", "--require-signature", public)
    assert not (tmp_path / "out").exists()
    run("sign", folder, "--key", private)
    run("push", folder, f"{store}tiny@signed")
    assert run("pull", f"{store}tiny@signed", tmp_path / "out", "--require-signature", public)["fetched"] > 0

    leaking = write_random(tmp_path / "b", 2)
    manifest = load_manifest(leaking)
    changed = manifest.model_copy(update={"toolchain": {**manifest.toolchain, "cxx": "/home/jane/bin/g++"}})
    (leaking / "manifest.json").unlink()
    (leaking / "manifest.json").write_bytes(changed.to_bytes())
    with pytest.raises(RefusedError, match=r"manifest\.json: path in a home directory"):
        run("push", leaking, f"{store}tiny@leaking")


def test_preflight_asks_the_manifest_wherever_it_is(tmp_path: Path) -> None:
    store, folder = f"{tmp_path}/store/", write_random(tmp_path / "a", 1)
    pushed = run("push", folder, f"{store}tiny@1")
    for path in (tmp_path / "store").rglob("*.safetensors"):
        path.unlink()  # nothing but the manifest is needed
    assert pushed["files"] > 0
    local, remote = run("preflight", folder), run("preflight", f"{store}tiny@1", tmp_path / "later")
    assert [found["subject"] for found in remote] == [found["subject"] for found in local]
