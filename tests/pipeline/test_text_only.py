"""`--text-only`: the text part of a multimodal model gives the logits that the whole model gives for a text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import recipes
from compiler.errors import RefusedError, UnknownArchitecture, UsageError
from compiler.numerics.foreign import transformers_config, transformers_model
from compiler.pipeline.build import build
from compiler.pipeline.convert_only import convert_to
from compiler.pipeline.located import plan_of
from compiler.pipeline.request import Ask, BuildRequest, PlanRequest
from compiler.storage.checkpoints.checkpoint import open_checkpoint
from compiler.storage.checkpoints.text_part import text_checkpoint
from tests.cases import checkpoints
from tests.stand_in import StandIn
from tests.wrappers import WRAPPERS, write_wrapper

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def request(model: Path, *, text_only: bool = True) -> PlanRequest:
    return PlanRequest(
        model=str(model),
        recipes=recipes,
        text_only=text_only,
        ask=Ask(dtype="float32"),
        cache=model.with_name(f"{model.name}.cache"),
    )


def whole_logits(folder: Path, ids: Tensor) -> Tensor:
    """Logits of the whole multimodal model for a text, by transformers."""
    import torch
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        found: Tensor = model.eval()(ids).logits
    return found


@pytest.mark.parametrize(("case", "original"), [*((case, True) for case in WRAPPERS), ("mistral3", False)])
def test_the_text_part_computes_what_the_whole_model_does(tmp_path: Path, case: str, original: bool) -> None:
    import torch
    from safetensors.torch import load_file

    from compiler.decoder.forward import forward

    model = write_wrapper(case, tmp_path / "model", original=original)
    ids = torch.randint(0, 256, (1, 100), generator=torch.Generator().manual_seed(1))
    expected = whole_logits(model, ids)
    plan = convert_to(request(model), tmp_path / "out")
    found = forward(plan.config, load_file(tmp_path / "out" / plan.ranks[0].file), ids)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    part = text_checkpoint(open_checkpoint(model))
    with torch.no_grad():
        reference = transformers_model(transformers_config(part.config), part)(ids).logits
    assert (reference - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_plan_counts_what_is_left_out(tmp_path: Path) -> None:
    plan = plan_of(request(write_wrapper("llava", tmp_path / "model")))
    (note,) = [note for note in plan.notes if "left out" in note]
    assert note.startswith("text part of LlavaForConditionalGeneration as ")
    assert "27 tensors are left out: 23 of vision_tower, 4 of multi_modal_projector" in note


def test_an_artifact_has_the_config_of_its_text_part_and_says_what_is_left_out(tmp_path: Path) -> None:
    model = write_wrapper("llava", tmp_path / "model")
    checkpoints.write_tokenizer(model)
    asked = BuildRequest(**vars(request(model)), output=tmp_path / "artifact", until="package")
    manifest = build(asked, toolchain=StandIn()).manifest
    assert manifest is not None
    assert manifest.model.text_only
    assert "27 tensors are left out" in manifest.model.notes[-1]
    packed = json.loads((tmp_path / "artifact/tokenizer/config.json").read_text())
    assert (packed["architectures"], packed["model_type"]) == (["LlamaForCausalLM"], "llama")
    assert "vision_config" not in packed


def test_without_the_option_the_refusal_names_the_text_part_and_the_option(tmp_path: Path) -> None:
    model = write_wrapper("qwen2_5_vl", tmp_path / "model")
    with pytest.raises(UnknownArchitecture, match="its text part is Qwen2ForCausalLM") as caught:
        plan_of(request(model, text_only=False))
    assert caught.value.hint.startswith("`--text-only` builds the text part with recipe `qwen2`")


def test_the_text_of_a_config_without_text_config_is_its_own_keys(tmp_path: Path) -> None:
    """Qwen2.5-VL as published: the text's keys beside vision_config, positions in sections."""
    model = write_wrapper("qwen2_5_vl", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    text = {key: value for key, value in config.pop("text_config").items() if key != "rope_parameters"}
    sections = {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, "rope_theta": 10000.0}
    (model / "config.json").write_text(json.dumps({**text, **config, **sections}))
    plan = plan_of(request(model))
    assert (plan.config.architecture, plan.config.rope_scaling, plan.recipe) == ("Qwen2ForCausalLM", None, "qwen2")


def test_a_text_part_that_is_no_causal_model_is_refused(tmp_path: Path) -> None:
    """PaliGemma's prompts see themselves in both directions, which Gemma's do not."""
    model = write_wrapper("llava", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["PaliGemmaForConditionalGeneration"]}))
    with pytest.raises(RefusedError, match="attention in both directions over a prompt"):
        plan_of(request(model))


def test_a_model_of_text_alone_is_refused(tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "model")
    with pytest.raises(UsageError, match=r"`--text-only` takes a multimodal model.*LlamaForCausalLM"):
        plan_of(request(model))
