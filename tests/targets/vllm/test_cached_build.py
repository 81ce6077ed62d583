"""A build with a cache, from the checkpoint to the answer of a server, with the stand-in for vLLM."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import recipes
from compiler.api import Ask, BuildRequest, build
from compiler.artifact.manifest import load_manifest
from compiler.deploy.prewarm import prewarm
from compiler.errors import NumericsError, ToolchainMissing
from compiler.lmi import java_properties
from compiler.targets.vllm import bake, finish, interpreter
from compiler.targets.vllm.artifact import section_of
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.runtime import VllmRuntime
from compiler.targets.vllm.target import VllmPackager
from tests.command import command
from tests.targets.vllm.bake_stand_in import VERSION, write_stand_in
from tests.tiny import VOCAB


@dataclass(frozen=True)
class EvenJudge:
    """Reference of a model for which every token is as likely as any other, as the stand-in is."""

    def logits(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.zeros((len(token_ids), VOCAB), np.float32)


def request(checkpoint: Path, folder: Path) -> BuildRequest:
    return BuildRequest(
        model=str(checkpoint),
        recipes=recipes,
        target="vllm",
        ask=Ask(tp=1, dtype="bfloat16", max_positions=64, max_batch=2),
        device="cpu",
        cache=folder / "cache",
        output=folder / "artifact",
    )


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[[str], Path]) -> Any:
    folder = tmp_path_factory.mktemp("cached")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(interpreter.PYTHON, sys.executable)
        patch.setenv(interpreter.PLUGINS, str(write_stand_in(folder / "vllm")))
        patch.setattr(bake, "judge_of", lambda *_: EvenJudge())
        build(request(tiny_checkpoint("llama"), folder))
        yield folder / "artifact"


def test_the_artifact_has_the_cache_its_carrier_and_the_servers_configuration(artifact: Path) -> None:
    manifest = load_manifest(artifact)
    cache = section_of(manifest).cache
    assert cache is not None
    assert cache.contains_pickle
    assert cache.proof.control
    assert cache.proof.reference_difference == pytest.approx(0, abs=1e-3)
    assert manifest.toolchain["vllm"] == VERSION
    names = {file.path for file in manifest.files}
    assert {"cache.tar.gz", "bake.json", "lmi_boot/__init__.py", "lmi_boot-1.dist-info/entry_points.txt"} <= names
    properties = java_properties.parse((artifact / "serving.properties").read_text())
    assert properties["option.max_rolling_batch_size"] == "2"
    assert "VLLM_CACHE_ROOT=/tmp/lmi-cache" in properties["option.env"].split(",")
    assert json.loads((artifact / "environment.json").read_text())["SM_VLLM_MAX_MODEL_LEN"] == "64"


def test_the_cache_was_made_at_the_path_that_serves_or_the_manifest_says_where(artifact: Path) -> None:
    cache = section_of(load_manifest(artifact)).cache
    assert cache is not None
    assert (cache.model_path == "/opt/ml/model") == cache.proof.isolated


def test_prewarm_starts_the_server_and_it_answers_from_the_cache(artifact: Path, tmp_path: Path) -> None:
    done = prewarm(str(artifact), artifact, file=tmp_path / "prewarm.json")
    assert done.answer is not None
    assert done.answer["hit"] is True
    assert done.answer["counters"]["num_aot_artifacts_loaded"] == 1


def test_a_prewarm_that_compiles_is_an_error(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    careful = tmp_path / "vllm"
    write_stand_in(careful)
    envs = careful / "vllm/envs.py"
    envs.write_text(envs.read_text().replace("known = (", 'known = ("HOME", '))
    monkeypatch.setenv(interpreter.PLUGINS, str(careful))
    runner = VllmRuntime().runner(load_manifest(artifact), 1 << 30)
    assert runner is not None
    ran = subprocess.run(runner.once(artifact, "a", 2), capture_output=True, text=True, check=False)
    assert ran.returncode == 9
    assert "key: HOME" in ran.stderr


def test_explain_miss_names_a_variable_of_this_machine(artifact: Path, tmp_path: Path) -> None:
    assert command("explain-miss", artifact, cache=tmp_path).code == 0
    variables = {"VLLM_ENGINE_READY_TIMEOUT_S": "1200"}
    done = command("explain-miss", artifact, "--json", cache=tmp_path, environment=variables)
    assert done.code == 1
    found = done.json
    assert [each["subject"] for each in found if each["state"] == "mismatch"] == [
        "variables: VLLM_ENGINE_READY_TIMEOUT_S"
    ]


def test_a_server_with_other_log_probabilities_than_the_reference_is_refused(
    artifact: Path, tmp_path: Path, tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = write_stand_in(tmp_path / "vllm")
    server = wrong / "vllm/entrypoints/openai/api_server.py"
    server.write_text(server.read_text().replace("-5.5568", "-5.1"))
    monkeypatch.setenv(interpreter.PLUGINS, str(wrong))
    with pytest.raises(NumericsError, match=r"differ from the reference's by 0\.4"):
        build(request(tiny_checkpoint("llama"), tmp_path))
    assert not (tmp_path / "artifact").exists()


def test_without_vllm_the_shards_wait_for_the_script_that_another_machine_runs(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(interpreter.PYTHON, raising=False)
    with pytest.raises(ToolchainMissing, match="vLLM is not installed here"):
        build(request(tiny_checkpoint("llama"), tmp_path))
    shards = tmp_path / "artifact"
    assert load_manifest(shards).section.unfinished
    done = command("generate", shards, "a", cache=tmp_path / "cache")
    assert done.code == 7
    assert "it has no compiled cache" in done.err
    # another machine, which has vLLM; the stand-in's answers are not those of the weights
    monkeypatch.setenv(interpreter.PYTHON, sys.executable)
    monkeypatch.setenv(interpreter.PLUGINS, str(write_stand_in(tmp_path / "vllm")))
    monkeypatch.setattr(finish, "judge_of", lambda *_: EvenJudge())
    assert "compiler.targets.vllm.finish" in (shards / "bake.sh").read_text()
    finish.finish(shards)
    done = command("package", shards, "--json", cache=tmp_path / "cache")
    assert done.code == 0, done.err
    whole = load_manifest(Path(done.json["output"]))
    cache = section_of(whole).cache
    assert cache is not None
    assert not whole.section.unfinished
    assert whole.toolchain["vllm"] == VERSION
    assert "bake.sh" not in {file.path for file in whole.files}
    assert "lmi_boot/__init__.py" in {file.path for file in whole.files}
    assert command("verify", done.json["output"], "--quick", cache=tmp_path / "cache").code == 0


def test_the_result_of_another_artifact_is_refused(
    artifact: Path, tmp_path: Path, tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(interpreter.PYTHON, raising=False)
    other = replace(request(tiny_checkpoint("llama"), tmp_path), ask=Ask(tp=1, dtype="bfloat16", max_positions=32))
    with pytest.raises(ToolchainMissing):
        build(other)
    done = command("package", tmp_path / "artifact", "--engines", artifact, cache=tmp_path / "cache")
    assert done.code == 7
    assert "max_model_len 64; expected 32" in done.err


def test_an_endpoint_needs_the_vllm_of_the_cache(artifact: Path) -> None:
    manifest, runtime = load_manifest(artifact), VllmRuntime()
    (version, place) = runtime.endpoint_problems(manifest, "vllm:server-sagemaker-cuda-v2.3", "ml.g5.xlarge")
    assert version == f"its cache was made by vLLM {VERSION}; the image has 0.27.0"
    assert "/opt/venv/lib/python3.12/site-packages" in place
    assert runtime.endpoint_problems(manifest, "123.dkr.ecr.us-east-1.amazonaws.com/mine:1", "ml.g5.xlarge") == ()
    (other,) = runtime.endpoint_problems(manifest, "0.30.0-tensorrtllm0.12.0-cu125", "ml.g5.xlarge")
    assert "another kind of artifact" in other


def test_an_endpoint_gets_the_variables_of_the_artifact(artifact: Path) -> None:
    manifest, runtime = load_manifest(artifact), VllmRuntime()
    found = runtime.endpoint_environment(manifest, "vllm:server-sagemaker-cuda-v2.3")
    assert found["SM_VLLM_MAX_MODEL_LEN"] == "64"
    assert found["PYTHONPATH"] == "/opt/ml/model:/usr/local/bin"
    assert runtime.environment_problems(manifest, found) == []
    assert runtime.endpoint_environment(manifest, "lmi28") == {}  # serving.properties has them
    missed = {**found, "VLLM_LOOPBACK_IP": "1.2.3.4", "SM_VLLM_MAX_NUM_SEQS": "3"}
    problems = runtime.environment_problems(manifest, missed)
    assert len(problems) == 2
    assert "--max-num-seqs 2" in problems[0]
    assert "`VLLM_LOOPBACK_IP`" in problems[1]


def test_an_image_of_docker_hub_cannot_be_pulled_by_sagemaker(artifact: Path) -> None:
    manifest, runtime = load_manifest(artifact), VllmRuntime()
    hub, mine = "vllm/vllm-openai:v0.32.0", "123.dkr.ecr.us-east-1.amazonaws.com/vllm-openai:v0.32.0"
    (first, *others) = runtime.endpoint_problems(manifest, hub, "ml.g5.xlarge")
    assert "is on Docker Hub" in first
    assert runtime.endpoint_problems(manifest, mine, "ml.g5.xlarge") == others


def test_generate_asks_a_server_that_starts_from_the_cache(artifact: Path, tmp_path: Path) -> None:
    done = command("generate", artifact, "ab", "abc", "--json", cache=tmp_path)
    assert done.code == 0, done.err
    assert [each["text"] for each in done.json] == [str(sum(prompt) % 7) for prompt in (b"ab", b"abc")]
    assert [each["prompt_tokens"] for each in done.json] == [2, 3]
    assert done.json[0]["finish_reason"] == "length"
    assert done.json[0]["tokens"][0]["log_prob"] == done.json[0]["log_prob"] == -float(sum(b"ab") % 7)


def test_serve_runs_the_server_itself_until_it_is_stopped(artifact: Path) -> None:
    line = [sys.executable, "-m", "compiler", "serve", str(artifact), "--port", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        try:
            url = served.stdout.readline().split()[-1]
            body = json.dumps({"prompt": [1, 2], "model": "m"}).encode()
            with urllib.request.urlopen(f"{url}/v1/completions", body, timeout=30) as answer:  # noqa: S310
                assert json.loads(answer.read())["choices"][0]["text"] == "3"
        finally:
            served.send_signal(signal.SIGTERM)
        assert served.wait(60) == 0


def test_what_a_server_does_at_a_miss_is_in_its_configuration(
    artifact: Path, tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    asked = request(tiny_checkpoint("llama"), artifact.parent)
    options = VllmOptions(on_miss="fail")
    build(replace(asked, ask=replace(asked.ask, options=options), output=tmp_path / "strict"))
    properties = java_properties.parse((tmp_path / "strict" / "serving.properties").read_text())
    assert "LMI_BOOT_ON_MISS=fail" in properties["option.env"].split(",")
    assert json.loads((tmp_path / "strict" / "environment.json").read_text())["LMI_BOOT_ON_MISS"] == "fail"
    assert VllmPackager().options_of(load_manifest(tmp_path / "strict")).on_miss == "fail"
    assert "LMI_BOOT_ON_MISS" not in (artifact / "serving.properties").read_text()


def test_options_of_another_server_are_refused_in_the_place_of_having_no_effect(artifact: Path, tmp_path: Path) -> None:
    done = command("serve", artifact, "--tgi-compat", "--queue", "1000", cache=tmp_path)
    assert done.code == 2
    assert "vLLM's own server serves this artifact" in done.err
    assert "`--queue`, `--tgi-compat`" in done.err


def test_verify_names_what_manifest_report_and_properties_say_differently(artifact: Path, tmp_path: Path) -> None:
    manifest = load_manifest(artifact)
    assert VllmPackager().problems(manifest, artifact) == []
    copy = Path(shutil.copytree(artifact, tmp_path / "copy"))
    properties = copy / "serving.properties"
    properties.write_text(properties.read_text().replace("batch_size=2", "batch_size=3"))
    report = json.loads((copy / "bake.json").read_text())
    for file in report["files"]:
        file["pickle"] = False
    (copy / "bake.json").write_text(json.dumps(report))
    assert VllmPackager().problems(manifest, copy) == [
        "the manifest's `contains_pickle` of the cache is not that of bake.json",
        *(f"cache.tar.gz: `{name}` is not the file that the report names" for name in pickles(artifact)),
        "serving.properties: expected option.max_rolling_batch_size=2; found 3",
    ]


def pickles(artifact: Path) -> list[str]:
    return [file["path"] for file in json.loads((artifact / "bake.json").read_text())["files"] if file["pickle"]]
