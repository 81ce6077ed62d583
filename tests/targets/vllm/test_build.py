"""Builds where vLLM is not installed: shards or the checkpoint itself, judged where a recipe reads the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import recipes
from compiler.artifact.manifest import Manifest, load_manifest
from compiler.errors import ArtifactError, RefusedError, ToolchainMissing, UnknownArchitecture, UsageError
from compiler.model.config import ModelConfig
from compiler.numerics.verify import verify
from compiler.pipeline.build import build
from compiler.pipeline.convert_only import convert_to
from compiler.pipeline.located import plan_of
from compiler.pipeline.request import Ask, BuildRequest, PlanRequest
from compiler.targets.vllm import copies
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.runner import judge_of
from compiler.targets.vllm.section import Shards
from tests.builds import Heard
from tests.tiny import model_config

TENSORS: dict[str, np.ndarray] = {
    "backbone.embeddings.weight": np.arange(64, dtype=np.float16).reshape(8, 8),
    "backbone.layers.0.mixer.A_log": np.ones((4, 2), np.float32),
    "backbone.layers.0.mixer.steps": np.arange(5, dtype=np.int64),
    "backbone.scale": np.array(0.5, np.float32),
}


@pytest.fixture
def mamba(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> Path:
    """A checkpoint whose architecture no recipe reads, with a tokenizer."""
    folder = tmp_path / "mamba"
    folder.mkdir()
    config = {"architectures": ["MambaForCausalLM"], "model_type": "mamba", "hidden_size": 8, "vocab_size": 259}
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float16"}))
    save_file(TENSORS, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_checkpoint("llama") / name, folder / name)
    return folder


def built(model: Path, folder: Path, tp: int = 2, weights: str = "auto", heard: Heard | None = None) -> Manifest:
    request = BuildRequest(
        model=str(model),
        recipes=recipes,
        target="vllm",
        ask=Ask(tp=tp, options=VllmOptions(image="lmi28" if weights == "auto" else "", weights=weights)),
        output=folder / "artifact",
        cache=folder / "cache",
    )
    with pytest.raises(ToolchainMissing, match=r"The verified checkpoint is in"):
        build(request, heard)
    return load_manifest(folder / "artifact")


def test_an_artifact_is_the_folder_that_a_container_mounts(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    manifest = built(tiny_checkpoint("llama"), tmp_path)
    assert manifest.section == Shards(
        version="0.26.0",
        image="djl-inference:0.36.0-lmi28.0.0-cu130",
        format="sharded_state",
        files=("model-rank-0-part-0.safetensors", "model-rank-1-part-0.safetensors"),
        compared="",
    )
    assert {"config.json", "tokenizer.json"} <= {file.path for file in manifest.files}
    assert manifest.numerics is not None
    assert manifest.numerics.kl_median < 1e-9
    assert verify(tmp_path / "artifact").digest == manifest.digest


def test_the_default_version_is_the_one_that_was_compared(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    section = built(tiny_checkpoint("llama"), tmp_path, weights="shards").section
    assert isinstance(section, Shards)
    assert (section.version, section.compared, section.image) == ("0.32.0", "0.32.0", None)


@pytest.mark.parametrize(
    "case",
    ["gpt_neox", "llama4", "deepseek_v2/groups", "gpt_oss/yarn", "cohere/qk-norm", "olmo2", "internlm2", "glm"],
)
def test_the_judge_undoes_what_vllm_joins(case: str, tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> None:
    """Matrices that alternate, turn, stay in heads or are joined give the logits of one rank on two."""
    found = []
    for tp in (1, 2):
        out, config = converted(case, tp, tmp_path, tiny_checkpoint)
        found.append(judge_of(out, config, 1 << 30).logits(np.arange(20)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4 * np.abs(found[0]).max())


def test_the_judge_notices_tensors_and_scales_that_the_model_has_not(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    out, config = converted("qwen3", 1, tmp_path, tiny_checkpoint, dtype="float16")
    path = out / "model-rank-0-part-0.safetensors"
    tensors = load_file(path)
    scale = "model.layers.1.self_attn.attn._v_scale"
    for change in ({"model.surplus.weight": np.ones(2, np.float16)}, {scale: np.array(0.5, np.float32)}):
        save_file(tensors | change, path)
        with pytest.raises(ArtifactError, match=next(iter(change)).replace(".", r"\.")):
            judge_of(out, config, 1 << 30).logits(np.arange(4))
    save_file({name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}, path)
    with pytest.raises(ArtifactError, match=r"the model needs `model\.norm\.weight`"):
        judge_of(out, config, 1 << 30).logits(np.arange(4))


def converted(
    case: str, tp: int, tmp_path: Path, tiny_checkpoint: Callable[[str], Path], dtype: str = "float32"
) -> tuple[Path, ModelConfig]:
    out = tmp_path / f"tp{tp}"
    asked = Ask(tp=tp, dtype=dtype, options=VllmOptions(weights="shards"))
    request = PlanRequest(
        model=str(tiny_checkpoint(case)), recipes=recipes, target="vllm", ask=asked, cache=tmp_path / "cache"
    )
    convert_to(request, out)
    return out, model_config(case)


def test_an_architecture_without_a_recipe_is_packed_as_it_is(mamba: Path, tmp_path: Path) -> None:
    heard = Heard()
    manifest = built(mamba, tmp_path, heard=heard)
    section = manifest.section
    assert isinstance(section, Shards)
    assert (section.format, section.files, section.rank_files) == ("safetensors", ("model.safetensors",), ())
    assert (manifest.model.architecture, manifest.model.recipe, manifest.numerics) == (
        "MambaForCausalLM",
        "unknown",
        None,
    )
    packed = load_file(tmp_path / "artifact" / "model.safetensors")
    assert packed.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(packed[name], expected, strict=True)
    assert any("no layout of its shards is known" in text for text in heard.warnings)
    assert any("config.json states no heads, layers, max_positions" in text for text in heard.warnings)
    verify(tmp_path / "artifact")


def test_code_of_a_model_is_packed_where_its_configuration_names_it(mamba: Path, tmp_path: Path) -> None:
    (mamba / "modeling_mamba.py").write_text("# code\n")
    assert "modeling_mamba.py" not in {file.path for file in built(mamba, tmp_path / "without").files}
    config = json.loads((mamba / "config.json").read_text())
    named = {**config, "auto_map": {"AutoModelForCausalLM": "modeling_mamba.Mamba"}}
    (mamba / "config.json").write_text(json.dumps(named))
    assert "modeling_mamba.py" in {file.path for file in built(mamba, tmp_path / "with").files}


def test_a_checkpoint_of_several_files_has_an_index(
    mamba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "LIMIT", 130)
    section = built(mamba, tmp_path).section
    assert isinstance(section, Shards)
    assert section.files == tuple(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    index = json.loads((tmp_path / "artifact" / "model.safetensors.index.json").read_bytes())
    assert index["weight_map"].keys() == TENSORS.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())


def test_other_targets_refuse_an_unknown_architecture_and_shards_refuse_it_too(mamba: Path, tmp_path: Path) -> None:
    for target, options in (("inductor", None), ("vllm", VllmOptions(weights="shards"))):
        request = PlanRequest(
            model=str(mamba), recipes=recipes, target=target, ask=Ask(options=options), cache=tmp_path / "cache"
        )
        with pytest.raises(UnknownArchitecture, match="MambaForCausalLM"):
            plan_of(request)


@pytest.mark.parametrize(("weights", "error"), [("shards", RefusedError), ("both", UsageError)])
def test_shards_of_a_model_without_a_layout_are_refused(
    weights: str, error: type[Exception], tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    request = PlanRequest(
        model=str(tiny_checkpoint("mpt")),
        recipes=recipes,
        target="vllm",
        ask=Ask(options=VllmOptions(weights=weights)),
        cache=tmp_path / "cache",
    )
    with pytest.raises(error):
        plan_of(request)
