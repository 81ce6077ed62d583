"""Names of architectures in config.json: absent, misspelled, several, and those that no recipe reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cases.case import case
from tests.cases.checkpoints import ABSENT, write
from tests.cases.runs import plan, refused, taken

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN = (
    "FalconH1ForCausalLM", "MambaForCausalLM", "Mamba2ForCausalLM", "JambaForCausalLM", "RwkvForCausalLM",
    "Qwen3NextForCausalLM", "NemotronHForCausalLM", "Lfm2ForCausalLM", "RecurrentGemmaForCausalLM",
    "DeepseekV32ForCausalLM", "MiniCPM3ForCausalLM", "PhimoeForCausalLM", "DbrxForCausalLM", "Glm4MoeForCausalLM",
    "MiniMaxM2ForCausalLM", "OlmoeForCausalLM", "Glm4ForCausalLM", "NemotronForCausalLM", "ExaoneForCausalLM",
    "MiniCPMForCausalLM", "BertForMaskedLM", "ModernBertForMaskedLM", "XLMRobertaForSequenceClassification",
    "T5ForConditionalGeneration", "BartForConditionalGeneration", "WhisperForConditionalGeneration",
    "MllamaForConditionalGeneration", "LLaDAModelLM", "DreamModel", "StableDiffusionPipeline",
    "LlamaForSequenceClassification", "Qwen2ForRewardModel", "Qwen2ForProcessRewardModel", "Phi3VForCausalLM",
)  # fmt: skip
"""Architectures that no recipe reads, of all kinds that are found on hubs."""


@case(24, "`architectures` absent, `model_type` llama")
def no_architectures(folder: Path) -> None:
    """The model type names the architecture, as in transformers."""
    taken(plan(write(folder / "model", {"architectures": ABSENT})), "LlamaForCausalLM (recipe llama)")


@case(24, "`architectures` null or empty, `model_type` llama")
def null_architectures(folder: Path) -> None:
    """Null and the empty list say as little as an absent key."""
    taken(plan(write(folder / "null", {"architectures": None})), "LlamaForCausalLM (recipe llama)")
    taken(plan(write(folder / "empty", {"architectures": []})), "LlamaForCausalLM (recipe llama)")


@case(24, "neither `architectures` nor a known `model_type`")
def no_names(folder: Path) -> None:
    """Both keys are named with what is in them, and the option that helps."""
    model = write(folder / "model", {"architectures": None, "model_type": "own"})
    refused(plan(model), 4, "`architectures` None", "`model_type` 'own'", "--recipe")


@case(25, "LLaMAForCausalLM, as decapoda's files have it")
def other_case(folder: Path) -> None:
    """A name in other capitals is a misspelling; the right one is named."""
    refused(plan(write(folder / "model", {"architectures": ["LLaMAForCausalLM"]})), 4, "Nearest: LlamaForCausalLM")


@case(26, "two architectures, the second known")
def second_known(folder: Path) -> None:
    """The one that a recipe reads counts."""
    taken(plan(write(folder / "model", {"architectures": ["MyLlama", "LlamaForCausalLM"]})), "(recipe llama)")


@case(27, "`architectures` a string")
def one_name(folder: Path) -> None:
    """One name instead of a list of one."""
    taken(plan(write(folder / "model", {"architectures": "LlamaForCausalLM"})), "LlamaForCausalLM (recipe llama)")


@case(27, "`architectures` an unknown string")
def one_unknown_name(folder: Path) -> None:
    """The whole name is in the message, not its letters."""
    refused(plan(write(folder / "model", {"architectures": "OwnForCausalLM"})), 4, "'OwnForCausalLM'")


@case(110, "architectures that no recipe reads")
def unknown(folder: Path) -> None:
    """Each refusal says what the architecture needs and what to do instead, and guesses no other architecture."""
    model = write(folder / "model")
    for name in UNKNOWN:
        ran = plan(write(model, {"architectures": [name]}))
        refused(ran, 4, f"'{name}', which needs ")
        assert "Nearest" not in ran.err, f"{name}: {ran.err}"
        hint = ran.err.partition("hint: ")[2].partition("Known: ")[0]
        assert len(hint) > 20, f"{name}: {ran.err}"


@case(110, "an architecture that nobody knows, spelled like another")
def unheard_of(folder: Path) -> None:
    """A name that differs in a digit or in more than a letter or two is no misspelling."""
    model = write(folder / "model")
    for name in ("Qwen9ForCausalLM", "GemmarForConditionalGeneration", "LlaminateForCausalLM", "OtherModel"):
        ran = plan(write(model, {"architectures": [name]}))
        refused(ran, 4, f"'{name}'")
        assert "Nearest" not in ran.err, f"{name}: {ran.err}"


@case(110, "a multimodal model whose text part a recipe reads")
def wrapper(folder: Path) -> None:
    """The text part and the option that builds it are named."""
    text = {"model_type": "mistral", "hidden_size": 64}
    config = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "text_config": text,
        "vision_config": {"model_type": "pixtral"},
    }
    ran = plan(write(folder / "model", config))
    refused(ran, 4, "'Mistral3ForConditionalGeneration', a multimodal model", "`mistral`", "--text-only")
    assert "Nearest" not in ran.err
