"""Whole builds on this machine: without neuronx-cc, finished elsewhere, and refused where they cannot run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from compiler.artifact.manifest import load_manifest
from compiler.deploy.preflight import preflight
from compiler.errors import ArtifactError, RefusedError
from compiler.registry.push import push
from compiler.targets.neuron import build
from compiler.targets.neuron.artifact import options_of
from compiler.targets.neuron.options import NeuronOptions
from compiler.targets.neuron.plan import neuron_plan
from compiler.targets.neuron.runtime import GatheredRunner, GraphRunner, NeuronRuntime, check_equal, judge_of
from compiler.targets.neuron.section import NeuronFiles
from tests import published
from tests.builds import copied
from tests.command import Ran, command
from tests.targets.neuron.stand_in import install
from tests.targets.neuron.test_drivers import driver, made

ARGUMENTS = ("--target", "neuron", "--tp", "2", "--batch", "2", "--sequence-length", "64", "--context-buckets", "16")


@pytest.fixture(scope="module")
def built(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """Artifact of a build without neuronx-cc, for inf2."""
    folder = tmp_path_factory.mktemp("neuron")
    ran = command(
        "build", "--model", tiny_checkpoint("llama"), *ARGUMENTS, "--instance-type", "inf2.48xlarge", "--neuron-driver",
        "graph", "--output", folder / "artifact", "--json", cache=folder / "cache",
    )  # fmt: skip
    return folder, ran


def test_without_the_compiler_a_build_leaves_graphs_that_were_executed(built: tuple[Path, Ran]) -> None:
    folder, ran = built
    assert ran.error["type"] == "ToolchainMissing"
    assert ran.error["hint"] == "run its `compile-neuron.sh` where neuronx-cc is, then `lmi-compile package`"
    manifest = load_manifest(folder / "artifact")
    section = manifest.section
    assert isinstance(section, NeuronFiles)
    assert [graph.hlo for graph in section.graphs] == [
        "graphs/context_16_batch_2.hlo_module.pb", "graphs/token_64_batch_2.hlo_module.pb"
    ]  # fmt: skip
    assert section.strategy == "shard-over-heads"
    assert manifest.numerics is not None
    assert manifest.numerics.kl_median < 1e-9
    proof = json.loads((folder / "artifact/graphs/proof.json").read_text())
    assert proof["difference"] < 1e-5
    assert proof["model"]["heads"] == manifest.config.heads
    signatures = json.loads((folder / "artifact/graphs/graphs.json").read_text())
    assert signatures["token_64_batch_2"]["inputs"][0]["name"] == "token_ids"
    assert options_of(manifest) == NeuronOptions(
        group_query_attention="shard-over-heads", buckets="64", context_buckets="16", neuron_driver="graph",
        instance="ml.inf2.48xlarge",
    )  # fmt: skip


def test_verify_runs_the_artifacts_own_graphs_with_its_own_shards(built: tuple[Path, Ran], tmp_path: Path) -> None:
    folder, _ = built
    ran = command("verify", folder / "artifact", "--json", cache=folder / "cache")
    assert ran.code == 0, ran.err
    runner = NeuronRuntime().runner(load_manifest(folder / "artifact"), 1 << 30)
    assert isinstance(runner, GraphRunner)
    assert isinstance(NeuronRuntime().runner(load_manifest(folder / "artifact"), 1), GatheredRunner)
    wrong = copied(folder / "artifact", tmp_path / "wrong")
    path = wrong / "weights" / "tp1_sharded_checkpoint.safetensors"
    tensors = load_torch(path)
    tensors["layers.1.attn.q.weight"] = tensors["layers.1.attn.q.weight"].flip(0).contiguous()
    save_torch(tensors, path)
    rows = [np.arange(40) % 250]
    ours, changed = (runner.logits(place, rows)[0] for place in (folder / "artifact", wrong))
    judged = judge_of(folder / "artifact", load_manifest(folder / "artifact").config, 0).logits(rows[0])
    assert np.abs(ours - judged).max() < 0.05 * np.abs(judged).max()
    assert np.abs(changed - judged).max() > 0.05 * np.abs(judged).max()


def test_buckets_that_disagree_are_an_error() -> None:
    rows = [np.ones((2, 3), np.float32)]
    check_equal(rows, [rows[0] + 5e-5], "float32")
    for other in (rows[0] + 1e-3, rows[0] * np.nan):
        with pytest.raises(ArtifactError, match="graphs of two buckets differ"):
            check_equal([other], rows, "float32")


def test_the_artifact_is_finished_where_the_compiler_is_and_cannot_be_published(
    built: tuple[Path, Ran], tmp_path: Path
) -> None:
    folder, _ = built
    artifact = folder / "artifact"
    bin_folder = tmp_path / "bin"
    install(bin_folder, "flaky 1")
    early = command("package", artifact, "--output", tmp_path / "done", "--json", cache=folder / "cache")
    assert "is missing" in early.error["message"]
    path = f"{bin_folder}:/usr/bin:/bin"
    subprocess.run([artifact / "compile-neuron.sh"], env={"PATH": path}, check=True, capture_output=True)
    ran = command("package", artifact, "--output", tmp_path / "done", "--json", cache=folder / "cache")
    assert ran.code == 0, ran.err
    manifest = load_manifest(tmp_path / "done")
    section = manifest.section
    assert isinstance(section, NeuronFiles)
    assert section.unfinished == ""
    assert all(graph.neff and graph.neff.endswith("/model.neff") for graph in section.graphs)
    assert manifest.stand_in
    assert manifest.toolchain["neuronx-cc"].endswith("+stand-in")
    with pytest.raises(RefusedError, match="stand-in"):
        push(tmp_path / "done", str(tmp_path / "store"))


def test_a_machine_without_neuroncores_is_refused_with_the_next_step(built: tuple[Path, Ran], tmp_path: Path) -> None:
    folder, _ = built
    manifest = load_manifest(folder / "artifact")
    found = {finding.subject: finding for finding in preflight(manifest, folder / "artifact")}
    assert found["graphs"].state == "mismatch"
    assert "compile-neuron.sh" in found["graphs"].remedy
    assert "needs 2 NeuronCores of inf2; no Neuron driver answers here" in found["neuron"].text
    ran = command("prewarm", folder / "artifact", tmp_path / "here", "--json", cache=folder / "cache")
    assert ran.error["type"] == "IncompatibleError"
    assert "ml.inf2.48xlarge" in ran.error["hint"]
    problems = NeuronRuntime().endpoint_problems(manifest, "0.30.0-neuronx-sdk2.20.1", "ml.trn1.32xlarge")
    assert "it was compiled for inf2; ml.trn1.32xlarge is trn1" in problems
    assert "it is not compiled yet" in problems


def test_a_drivers_build_carries_its_call_and_becomes_the_containers_folder(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, built: tuple[Path, Ran]
) -> None:
    cache, artifact = built[0] / "cache", tmp_path / "artifact"
    arguments = [one for one in ARGUMENTS if one not in ("--context-buckets", "16")]
    ran = command(
        "build", "--model", tiny_checkpoint("llama"), *arguments, "--instance-type", "inf2.48xlarge", "--output",
        artifact, "--json", cache=cache,
    )  # fmt: skip
    assert "driver `optimum`" in ran.error["hint"]
    script = (artifact / "compile-neuron.sh").read_text()
    assert "optimum-cli export neuron --model model --task text-generation --instance_type inf2" in script
    manifest = load_manifest(artifact)
    plan = neuron_plan(manifest.config, 2, 64, (2,))
    result = made(artifact / "compiled" / "result", driver("optimum", plan=plan), plan)
    (result / "tokenizer.json").write_text("{}")
    ran = command("package", artifact, "--output", tmp_path / "done", "--json", cache=cache)
    assert ran.code == 0, ran.err
    done = load_manifest(tmp_path / "done")
    section = done.section
    assert isinstance(section, NeuronFiles)
    assert section.unfinished == ""
    assert (
        section.image_tag
        == "huggingface-vllm-inference-neuronx:0.11.0-optimum0.4.4-neuronx-py310-sdk2.26.1-ubuntu22.04"
    )
    assert section.proven == "nothing of it was run on NeuronCores"
    assert section.environment["SM_ON_MODEL"] == "/opt/ml/model"
    assert "SM_ON_BATCH_SIZE=2" in (tmp_path / "done" / "endpoint.env").read_text().splitlines()
    assert (tmp_path / "done" / "model.pt").is_file()
    config = json.loads((result / "neuron_config.json").read_text()) | {"tp_degree": 8}
    (result / "neuron_config.json").write_text(json.dumps(config))
    again = command("package", artifact, "--output", tmp_path / "wrong", "--json", cache=cache)
    assert "tp_degree: expected 2; found 8" in again.error["message"]


def test_without_jax_a_build_leaves_verified_shards(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, built: tuple[Path, Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "installed", lambda _name: None)
    ran = command(
        "build", "--model", tiny_checkpoint("llama"), *ARGUMENTS, "--neuron-driver", "graph", "--output",
        tmp_path / "shards", "--json", cache=built[0] / "cache",
    )  # fmt: skip
    assert ran.error["type"] == "ToolchainMissing"
    assert "`jax` is not installed" in ran.error["message"]
    section = load_manifest(tmp_path / "shards").section
    assert isinstance(section, NeuronFiles)
    assert (len(section.shards), section.graphs) == (2, ())
    assert "`pip install -e '.[neuron]'`" in section.unfinished  # the tests run in a checkout


def test_options_of_the_target_are_refused_for_others(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    ran = command(
        "plan", "--model", tiny_checkpoint("llama"), "--target", "inductor", "--neuron-driver", "graph", "--json",
        cache=tmp_path,
    )  # fmt: skip
    assert ran.error["message"] == "`--neuron-driver` is an option of target `neuron`; found `--target inductor`"


def test_llama_70b_is_refused_at_tp_8_with_what_fits_and_planned_at_24(tmp_path: Path) -> None:
    model = published.write_headers("llama2-70b", tmp_path / "model")
    arguments = ("plan", "--model", model, "--target", "neuron", "--dtype", "bfloat16", "--instance-type",
                 "inf2.48xlarge", "--batch", "4", "--sequence-length", "4096", "--json")  # fmt: skip
    ran = command(*arguments, "--tp", "8", cache=tmp_path)
    assert ran.error["type"] == "RefusedError"
    assert "16.1 GiB of weights + 0.6 GiB of KV cache (4 rows of 4096 tokens)" in ran.error["message"]
    assert ran.error["hint"] == (
        "ml.inf2.48xlarge has room for `--tp 24`, `--tp 8` with `--quant int8-weight`, `--tp 24` with "
        "`--quant int8-weight`"
    )
    found = command(*arguments, "--tp", "24", "--group-query-attention", "replicated-heads", cache=tmp_path).json
    assert found["ranks"][0] == {
        "file": "weights/tp0_sharded_checkpoint.safetensors", "tensors": 723, "heads": 3, "kv_heads": 1, "kv_copies": 3,
        "bytes": found["ranks"][0]["bytes"],
    }  # fmt: skip
    assert found["kv_cache_bytes_per_token_and_rank"] == 2 * 80 * 128 * 2
    ran = command(*arguments, "--tp", "12", cache=tmp_path)
    assert ran.error["hint"] == "`--tp` is one of 1, 2, 4, 8, 24 on ml.inf2.48xlarge for this model"


def test_the_judge_reports_shards_that_contradict_each_other(built: tuple[Path, Ran], tmp_path: Path) -> None:
    folder, _ = built
    manifest = load_manifest(folder / "artifact")
    whole = judge_of(folder / "artifact", manifest.config, 0).logits(np.arange(9))
    assert np.isfinite(whole).all()
    name = "weights/tp1_sharded_checkpoint.safetensors"
    (tmp_path / "weights").mkdir()
    for other in ("weights/tp0_sharded_checkpoint.safetensors", "shards.json"):
        (tmp_path / other).symlink_to(folder / "artifact" / other)
    tensors = _floats(folder / "artifact" / name)
    for changed, words in (
        ({"layers.1.attn.norm.weight": np.zeros_like(tensors["layers.1.attn.norm.weight"])}, "they differ"),
        ({"head.weight": np.ones_like(tensors["head.weight"])}, "padding is expected to be zero"),
        ({"layers.9.attn.q.weight": tensors["layers.1.attn.q.weight"]}, "same tensors on all ranks"),
    ):
        save_file(tensors | changed, tmp_path / name)
        with pytest.raises(ArtifactError, match=words):
            judge_of(tmp_path, manifest.config, 0).logits(np.arange(9))


def _floats(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a file of bfloat16, as float32."""
    return {name: tensor.float().numpy() for name, tensor in load_torch(path).items()}


def test_weights_for_transformers_neuronx_are_written_for_its_driver(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, built: tuple[Path, Ran]
) -> None:
    cache, model = built[0] / "cache", tiny_checkpoint("llama")
    arguments = ("build", "--model", model, *ARGUMENTS, "--presharded", "--json")
    ran = command(*arguments, "--output", tmp_path / "no", cache=cache)
    assert "those of driver `tnx`, unquantized; found driver `nxdi`" in ran.error["message"]
    command(*arguments, "--neuron-driver", "tnx", "--output", tmp_path / "artifact", cache=cache)
    manifest = load_manifest(tmp_path / "artifact")
    assert options_of(manifest).presharded
    folder, names = tmp_path / "artifact" / "presharded", [f"decoder_layer_{i}" for i in range(manifest.config.layers)]
    assert {path.stem for path in folder.glob("*.safetensors")} == {"DecoderLMHead", *names}
    assert json.loads((folder / "config.json").read_text())["is_presharded_checkpoint"] is True
    assert (folder / "tokenizer.json").is_file()
    stored = load_torch(folder / "decoder_layer_1.safetensors")
    for rank in range(2):
        shard = load_torch(tmp_path / "artifact" / f"weights/tp{rank}_sharded_checkpoint.safetensors")
        assert stored[f"attn_q_weight*{rank}"].equal(shard["layers.1.attn.q.weight"].T)
        assert stored[f"attn_out_weight*{rank}"].equal(shard["layers.1.attn.o.weight"])


def test_a_plan_names_strategy_driver_and_buckets(tmp_path: Path) -> None:
    model = published.write_headers("llama3-8b", tmp_path / "model")
    arguments = ("plan", "--model", model, "--target", "neuron", "--instance-type", "inf2.48xlarge")
    text = command(*arguments, "--tp", "24", "--sequence-length", "1024", cache=tmp_path).out
    lines = dict(line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    assert lines["strategy"] == "replicated-heads, 16 empty query heads, 3 copies of each kv head"
    assert lines["driver"].startswith(
        "optimum: optimum-neuron, SDK 2.26.1, for huggingface-vllm-inference-neuronx:0.11"
    )
    assert lines["driver"].endswith(" on ml.inf2.48xlarge")
    assert lines["buckets"] == "prompts 64, 128, 256, 512, decode 128, 256, 512, 1024"
    facts = command(*arguments, "--tp", "8", "--json", cache=tmp_path).json["facts"]
    assert facts["strategy"] == "shard-over-heads"


def test_degrees_that_heads_do_not_allow_are_not_in_the_hint(tmp_path: Path) -> None:
    model = published.write_headers("mixtral-8x7b", tmp_path / "model")
    ran = command(
        "plan", "--model", model, "--target", "neuron", "--instance-type", "inf2.48xlarge", "--tp", "3", "--json",
        cache=tmp_path,
    )  # fmt: skip
    assert ran.error["message"] == "the runtime of inf2 has no collectives for tp 3"
    assert ran.error["hint"] == "`--tp` is one of 1, 2, 4, 8, 24 on ml.inf2.48xlarge for this model"
