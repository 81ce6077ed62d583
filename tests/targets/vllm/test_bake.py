"""Bake, proof and explanation by real processes, with the stand-in for vLLM."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compiler.errors import ArtifactError, CompileError, UsageError
from compiler.storage.files.digest import sha256_file
from compiler.targets.vllm import bake
from compiler.targets.vllm.explain import explain_start
from compiler.targets.vllm.proof import compare, judge, written_since
from tests.targets.vllm.bakes import SERVING, SPEC, TriedBake, bake_with_stand_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.targets.values import Finding


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> TriedBake:
    return bake_with_stand_in(tmp_path_factory.mktemp("bake"))


def deciding(findings: Sequence[Finding]) -> list[str]:
    """Subjects of the mismatches, besides the miss itself."""
    return [each.subject for each in findings if each.state == "mismatch" and each.subject != "cache"]


def test_the_second_start_is_a_hit_and_the_report_says_how_it_was_proven(baked: TriedBake) -> None:
    assert baked.verdict.hit
    assert baked.report["proof"]["counters"] == {
        "num_aot_artifacts_loaded": 1,
        "num_compiled_artifacts_loaded": 1,
        "num_models_seen": 1,
    }
    assert any("run(s) of a compiler" in reason for reason in baked.report["proof"]["control"])
    assert any("new file(s) in root" in reason for reason in baked.report["proof"]["control"])


def test_the_archive_has_the_kernels_and_no_locks(baked: TriedBake) -> None:
    with tarfile.open(baked.out / bake.ARCHIVE) as archive:
        names = archive.getnames()
    assert [name.rpartition("/")[2].partition("-")[0] for name in names] == ["kernel", "model"]
    assert [file["pickle"] for file in baked.report["files"]] == [False, True]


@pytest.mark.parametrize(
    ("name", "value"), [("VLLM_ENGINE_READY_TIMEOUT_S", "1200"), ("VLLM_PROCESS_NAME_PREFIX", "x")]
)
def test_a_variable_in_the_key_is_a_miss_that_names_it(baked: TriedBake, name: str, value: str) -> None:
    start = baked.start(f"variable-{name}", {name: value})
    assert not judge(start, baked.session, "M", 1).hit
    found = explain_start(baked.report, baked.work / f"variable-{name}" / "record")
    assert deciding(found) == [f"key: {name}"]


def test_a_variable_outside_of_the_key_is_a_hit(baked: TriedBake) -> None:
    start = baked.start("logging", {"VLLM_LOGGING_LEVEL": "DEBUG"})
    assert judge(start, baked.session, "M", 1).hit
    found = explain_start(baked.report, baked.work / "logging" / "record")
    assert [(each.subject, each.state) for each in found] == [
        ("cache", "ok"),
        ("variables: VLLM_LOGGING_LEVEL", "note"),
    ]


def test_another_argument_is_a_miss_that_names_it(baked: TriedBake) -> None:
    start = baked.start("argument", {}, serving=replace(SERVING, max_num_seqs=3))
    assert not judge(start, baked.session, "M", 1).hit
    found = explain_start(baked.report, baked.work / "argument" / "record")
    assert deciding(found) == ["config.ModelConfig: --max-num-seqs"]


def test_a_forced_load_without_kernels_is_found_out(baked: TriedBake) -> None:
    """Counters and VLLM_FORCE_AOT_LOAD pass: only the new file and the compiler's run tell."""
    root = baked.work / "deleted-root" / "cache"
    shutil.copytree(baked.work / "bake-root" / "cache", root)
    (kernel,) = root.rglob("kernel-*.so")
    kernel.unlink()
    start = baked.start("deleted", {"LMI_BOOT_ARTIFACT": str(baked.model), "VLLM_FORCE_AOT_LOAD": "1"}, root=root)
    verdict = judge(start, baked.session, "M", 1)
    assert [reason.partition(" in ")[0] for reason in verdict.reasons] == ["1 new file(s)", "1 run(s) of a compiler"]


def test_vllm_at_another_path_loads_its_artifact_and_compiles_which_is_found_out(
    baked: TriedBake, tmp_path: Path
) -> None:
    """Counters and VLLM_FORCE_AOT_LOAD pass, as with vLLM 0.32.0 in a virtual environment that was moved."""
    moved = tmp_path / "moved"
    shutil.copytree(Path(baked.host.python_path[0]), moved)
    elsewhere = replace(baked, host=replace(baked.host, python_path=(str(moved),)))
    start = elsewhere.start("moved", {"VLLM_FORCE_AOT_LOAD": "1"})
    verdict = judge(start, baked.session, "M", 1)
    assert verdict.counters["num_aot_artifacts_loaded"] == 1
    assert [reason.partition(" in ")[0] for reason in verdict.reasons] == ["1 new file(s)", "1 run(s) of a compiler"]
    found = explain_start(baked.report, baked.work / "moved" / "record")
    assert deciding(found) == ["paths: site-packages"]


def test_another_model_path_is_a_miss_that_names_it(baked: TriedBake) -> None:
    elsewhere = replace(baked.host, isolation=replace(baked.host.isolation, model=f"{baked.model}/"))
    start = replace(baked, host=elsewhere).start("path", {})
    assert not judge(start, baked.session, "M", 1).hit
    assert deciding(explain_start(baked.report, baked.work / "path" / "record")) == ["config.ModelConfig: --model"]


def test_a_truncated_artifact_is_compiled_again_and_found_out(baked: TriedBake) -> None:
    root = baked.work / "truncated-root" / "cache"
    shutil.copytree(baked.work / "bake-root" / "cache", root)
    (model,) = root.rglob("model")
    model.write_bytes(model.read_bytes()[:-1])
    start = baked.start("truncated", {"LMI_BOOT_ARTIFACT": str(baked.model)}, root=root)
    assert not judge(start, baked.session, "M", 1).hit
    (found,) = explain_start(baked.report, baked.work / "truncated" / "record")
    assert "damaged or deleted" in found.remedy


def test_a_root_that_cannot_be_written_is_a_miss_or_with_fail_the_end(baked: TriedBake, tmp_path: Path) -> None:
    """A file is in the place of the root's parent, since root may write where it has no permission."""
    (tmp_path / "file").touch()
    root, record = tmp_path / "file" / "cache", baked.work / "unwritable" / "record"
    warned = baked.start("unwritable", {"LMI_BOOT_ROOT": str(root)})
    assert "the cache was not restored" in (baked.work / "unwritable" / "server.log").read_text()
    assert not judge(warned, baked.session, "M", 1).hit
    (found,) = [each for each in explain_start(baked.report, record) if each.subject == "carrier"]
    assert "Not a directory" in found.text
    failed = baked.start("unwritable-fail", {"LMI_BOOT_ROOT": str(root), "LMI_BOOT_ON_MISS": "fail"})
    assert failed.session["ready"] is None
    assert "Error" in (baked.work / "unwritable-fail" / "server.log").read_text()


def test_other_weights_at_the_same_path_are_told_apart_by_their_answers_alone(baked: TriedBake) -> None:
    (baked.model / "modulus").write_text("5")
    try:
        start = baked.start("weights", {})
    finally:
        (baked.model / "modulus").unlink()
    verdict = judge(start, baked.session, "M", 1)
    assert verdict.counters["num_aot_artifacts_loaded"] == 1
    assert verdict.reasons
    assert all("other tokens" in reason or "log probabilities" in reason for reason in verdict.reasons)


def test_a_restored_kernel_that_is_compiled_again_is_a_new_file(tmp_path: Path) -> None:
    root, mark = tmp_path / "cache", tmp_path / "mark"
    root.mkdir()
    (root / "old.so").touch()
    (root / "kernel.so").touch()
    mark.touch()
    os.utime(mark, ns=(10, 10))
    os.utime(root / "old.so", ns=(9, 9))
    os.utime(root / "kernel.so", ns=(11, 11))
    digest = str(sha256_file(root / "kernel.so"))
    assert written_since(root, {"old.so": digest, "kernel.so": digest}, mark) == ("kernel.so",)


def test_an_entry_of_a_graph_that_a_load_writes_again_is_no_new_file(tmp_path: Path) -> None:
    """Dialect J, as vLLM 0.32.0 with torch 2.13 loads it."""
    root, mark = tmp_path / "cache", tmp_path / "mark"
    entry = root / "torchinductor/aotautograd/key/content"
    entry.parent.mkdir(parents=True)
    entry.write_bytes(b"graph")
    mark.touch()
    os.utime(mark, ns=(10, 10))
    name, digest = entry.relative_to(root).as_posix(), str(sha256_file(entry))
    assert written_since(root, {name: digest}, mark) == ()
    entry.write_bytes(b"another graph")
    assert written_since(root, {name: digest}, mark) == (name,)


def test_with_fail_the_first_run_of_a_compiler_ends_the_server(baked: TriedBake) -> None:
    start = baked.start("fail", {"VLLM_PROCESS_NAME_PREFIX": "y", "LMI_BOOT_ON_MISS": "fail"})
    assert start.session["ready"] is None
    assert "CompilerRun" in (baked.work / "fail" / "server.log").read_text()


def test_a_damaged_archive_is_not_unpacked_and_ends_the_server(baked: TriedBake, tmp_path: Path) -> None:
    damaged = tmp_path / "artifact"
    shutil.copytree(baked.boot, damaged)
    data = bytearray((baked.out / bake.ARCHIVE).read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / bake.ARCHIVE).write_bytes(bytes(data))
    root = tmp_path / "cache"
    start = baked.start("damaged", {"LMI_BOOT_ARTIFACT": str(damaged)}, root=root)
    assert start.session["ready"] is None
    assert "Unrestorable" in (baked.work / "damaged" / "server.log").read_text()
    assert not root.exists()


def test_a_server_that_ends_at_start_is_an_error_with_its_log(baked: TriedBake, tmp_path: Path) -> None:
    broken = tmp_path / "vllm"
    shutil.copytree(Path(baked.host.python_path[0]), broken)
    (broken / "vllm/entrypoints/openai/api_server.py").write_text("raise SystemExit('no kernel image')\n")
    host = replace(baked.host, python_path=(str(broken),))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CompileError, match="before it was ready") as caught:
        bake.bake_and_prove(SPEC, "cpu", baked.model, host, tmp_path / "work", out)
    assert "no kernel image" in caught.value.log
    assert not list(out.iterdir())


def test_a_vllm_whose_key_ignores_the_control_is_refused(baked: TriedBake, tmp_path: Path) -> None:
    careless = tmp_path / "vllm"
    shutil.copytree(Path(baked.host.python_path[0]), careless)
    envs = careless / "vllm/envs.py"
    envs.write_text(envs.read_text().replace("IGNORED = {", 'IGNORED = {"VLLM_PROCESS_NAME_PREFIX", '))
    out = tmp_path / "out"
    out.mkdir()
    host = replace(baked.host, python_path=(str(careless),))
    with pytest.raises(ArtifactError, match="judged a hit"):
        bake.bake_and_prove(SPEC, "cpu", baked.model, host, tmp_path / "work", out)


def test_a_stream_is_compared_as_text_however_its_events_were_cut() -> None:
    def events(*texts: str) -> list[object]:
        return [{"choices": [{"text": text}]} for text in texts]

    assert compare({"stream": [events("ab", "c")]}, {"stream": [events("a", "bc")]}) == (0.0, ())
    assert compare({"stream": [events("ab", "c")]}, {"stream": [events("a", "b")]})[1]


def test_other_log_probabilities_are_no_hit_although_the_tokens_are_equal() -> None:
    def answer(probability: float) -> dict[str, object]:
        return {"choices": [{"token_ids": [1], "logprobs": {"token_logprobs": [probability]}}]}

    assert compare({"prefill": [answer(-1.0)]}, {"prefill": [answer(-1.0001)]})[1] == ()
    assert compare({"prefill": [answer(-1.0)]}, {"prefill": [answer(-1.1)]})[1] == (
        "request `prefill`: log probabilities differ by 0.1",
    )


def test_a_folder_without_records_is_refused(baked: TriedBake, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no record of a start"):
        explain_start(baked.report, tmp_path)


def test_the_report_has_digests_of_variables_and_no_values(baked: TriedBake) -> None:
    start = baked.start("secret", {"VLLM_API_KEY": "hunter2-hunter2"})
    assert judge(start, baked.session, "M", 1).hit
    records = baked.work / "secret" / "record"
    assert not any("hunter2" in path.read_text() for path in records.glob("*.json"))
    assert "VLLM_API_KEY" in json.dumps([json.loads(path.read_text()) for path in records.glob("[0-9]*.json")])


def test_the_servers_temporary_folder_has_room_for_the_names_of_sockets(
    baked: TriedBake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baked.start("long" * 20, {})
    session = json.loads((baked.work / ("long" * 20) / "input.json").read_text())
    assert len(session["env"]["TMPDIR"]) + len("/11111111-2222-3333-4444-555555555555") <= 107
    (tmp_path / ("long" * 20)).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 20)))
    with pytest.raises(UsageError, match="at most 70 bytes") as caught:
        baked.start("longer", {})
    assert "TMPDIR" in caught.value.hint
