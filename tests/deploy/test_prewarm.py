from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compiler.artifact.manifest import Device, load_manifest
from compiler.artifact.sign import sign
from compiler.deploy.prewarm import REPORT, prewarm
from compiler.errors import ArtifactError, IncompatibleError, RankError, SignatureError, UnprovenError, UsageError
from compiler.registry.push import push
from compiler.registry.refs import promote
from tests.artifact.test_sign import make_pair

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def real(tiny_artifact: Callable[[str, int], Path], tmp_path: Path) -> Path:
    """A copy of a really compiled artifact."""
    return Path(shutil.copytree(tiny_artifact("mixtral", 2), tmp_path / "real"))


@pytest.fixture
def stand_in(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """An artifact that nothing can run."""
    import recipes
    from compiler.api import Ask, BuildRequest
    from compiler.pipeline.build import build
    from tests.stand_in import StandIn

    request = BuildRequest(
        model=str(tiny_checkpoint("llama")), recipes=recipes, ask=Ask(tp=2), output=tmp_path / "stand-in",
        cache=tmp_path / "cache",
    )  # fmt: skip
    return build(request, toolchain=StandIn()).output


def change(folder: Path, **changes: object) -> None:
    """Another manifest for the same files."""
    path = folder / "manifest.json"
    made = load_manifest(folder).model_copy(update=changes)
    path.unlink()
    path.write_bytes(made.to_bytes())


def test_from_a_store_to_an_answer(real: Path, tmp_path: Path) -> None:
    store, folder = f"file://{tmp_path}/store", tmp_path / "model"
    pushed = push(real, f"{store}/tiny@v1")
    promote(f"{store}/tiny@v1", "current")
    done = prewarm(f"{store}/tiny@current", folder)
    size = sum(file.size for file in load_manifest(folder).files)
    assert [(phase.name, phase.nbytes) for phase in done.phases] == [
        ("preflight", 0), ("fetch", size), ("verify", size), ("answer", 0),
    ]  # fmt: skip
    assert (done.digest, done.unproven) == (pushed.digest, None)
    assert done.answer is not None
    assert done.answer["finish_reason"] in ("length", "eos_token")
    assert 0 < done.answer["new_tokens"] <= 8
    assert done.answer["log_prob"] < 0 < done.answer["seconds_to_first_token"]
    assert json.loads((folder / REPORT).read_bytes()) == json.loads(json.dumps(done.to_json()))

    again = prewarm(f"{store}/tiny@current", folder)
    assert {phase.name: phase.nbytes for phase in again.phases}["fetch"] == 0
    assert again.answer is not None
    assert again.answer["log_prob"] == done.answer["log_prob"]


def test_two_processes_at_once_on_one_folder(real: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "compiler", "prewarm", str(real), str(tmp_path / "model"), "--json"]
    root = Path(__file__).parents[2]
    runs = [
        subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    found = [json.loads(out) for out, _ in told]
    assert found[0]["answer"]["log_prob"] == found[1]["answer"]["log_prob"]
    # One of them copied; the other waited, and found it done.
    assert sorted(facts["phases"][1]["nbytes"] > 0 for facts in found) == [False, True]
    assert "another process is prewarming" in told[0][1] + told[1][1]
    assert sorted(path.name for path in tmp_path.glob(".model*")) == []


def test_in_place(stand_in: Path) -> None:
    before = {path: path.stat().st_ino for path in stand_in.rglob("*")}
    with pytest.raises(UnprovenError, match=r"but it was not run: it was made by a stand-in toolchain") as caught:
        prewarm(str(stand_in), stand_in)
    assert caught.value.exit_code == 12
    told = json.loads((stand_in / REPORT).read_bytes())
    assert (told["answer"], told["unproven"]) == (
        None,
        "it was made by a stand-in toolchain, so there is nothing to run",
    )
    after = {path: path.stat().st_ino for path in stand_in.rglob("*") if path.name != REPORT}
    assert after == before


def test_nothing_is_fetched_for_a_machine_that_cannot_run_it(stand_in: Path, tmp_path: Path) -> None:
    change(stand_in, device=Device(kind="cpu", isa="x86-64-v3", features=("no_such_feature",)))
    with pytest.raises(IncompatibleError, match="lacks no_such_feature"):
        prewarm(str(stand_in), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_required_signature_is_asked_for_before_anything_is_fetched(stand_in: Path, tmp_path: Path) -> None:
    change(stand_in, stand_in=False)  # a store takes none that a stand-in made
    private, public = make_pair(tmp_path, "key")
    store, folder = f"file://{tmp_path}/store", tmp_path / "model"
    push(stand_in, f"{store}/tiny@unsigned")
    for source in (str(stand_in), f"{store}/tiny@unsigned"):
        with pytest.raises(SignatureError, match="is not signed"):
            prewarm(source, folder, key=public)
        assert not folder.exists()
    sign(stand_in, str(private))
    with pytest.raises(SignatureError, match="is not signed by"):
        prewarm(str(stand_in), folder, key=make_pair(tmp_path, "other")[1])
    push(stand_in, f"{store}/tiny@signed")
    with pytest.raises(RankError):  # what follows the signature and the digests: packages of a stand-in do not load
        prewarm(f"{store}/tiny@signed", folder, key=public)
    assert (folder / "manifest.json.sig").read_bytes() == (stand_in / "manifest.json.sig").read_bytes()


@pytest.mark.parametrize("forged", [False, True])
def test_damage_and_forgery_are_found(stand_in: Path, tmp_path: Path, forged: bool) -> None:
    """A forger finds other bytes of the same CRC: where a signature is required, digests are taken."""
    private, public = make_pair(tmp_path, "key")
    sign(stand_in, str(private))
    weights = stand_in / "weights/rank0.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.unlink()
    weights.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"rank0\.safetensors: expected (sha256|crc32):"):
        prewarm(str(stand_in), tmp_path / "model", key=public if forged else None)
    assert not (stand_in / REPORT).exists()


FAKE = """#!{python}
import json, os, pathlib, sys
assert sys.argv[1:3] == ["-m", "compiler.runtime.once"], sys.argv
assert os.listdir(os.environ["PATH"]) == []
{body}
"""
COMPILES = "made = pathlib.Path(os.environ['TORCHINDUCTOR_CACHE_DIR']); made.mkdir(); (made / 'kernel.so').touch()"
ANSWER = {"seconds_to_load": 1.0, "seconds_to_first_token": 0.1, "finish_reason": "length", "log_prob": -1.0}


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (
            f"{COMPILES}; print(json.dumps({ANSWER!r}))",
            ArtifactError,
            r"compiled 1 file\(s\) at start, such as kernel\.so",
        ),
        ("print('first line', 'it broke', sep='\\n', file=sys.stderr); sys.exit(9)", RankError, "answer: it broke"),
        ("os.abort()", RankError, "does not answer: exit code -6"),
    ],
)
def test_a_failed_first_answer_is_reported(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, kind: type[Exception], words: str
) -> None:
    change(stand_in, stand_in=False)
    fake = tmp_path / "python"
    fake.write_text(FAKE.format(python=sys.executable, body=body))
    fake.chmod(0o755)
    monkeypatch.setattr("compiler.targets.inductor.runtime.sys.executable", str(fake))
    with pytest.raises(kind, match=words):
        prewarm(str(stand_in), stand_in)


def test_a_report_that_cannot_be_written(stand_in: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write the report"):
        prewarm(str(stand_in), tmp_path / "model", file=tmp_path / "nowhere" / "prewarm.json")


def test_the_command_line(stand_in: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "compiler", "prewarm", str(stand_in), str(tmp_path / "model")]
    root = Path(__file__).parents[2]
    ran = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 12
    assert "--allow-unproven" in ran.stderr
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["preflight", "fetch", "verify"]
    ran = subprocess.run([*words, "--allow-unproven"], cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert "warning: " in ran.stderr
