"""Locate a model: where it is, its metadata, and the recipe that reads it. No weight is fetched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compiler import targets
from compiler.calibration.samples import resolve_text
from compiler.pipeline.plan import Plan, make_plan
from compiler.quantization.prequantized.checkpoint import after_rewrite
from compiler.quantization.prequantized.formats import packed
from compiler.storage.checkpoints.resolve import resolve

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.model.recipe import Recipe
    from compiler.pipeline.request import Ask, PlanRequest
    from compiler.storage.checkpoints.checkpoint import Checkpoint
    from compiler.storage.checkpoints.source import Files, ResolvedSource


@dataclass(frozen=True)
class LocatedModel:
    """A model on this machine, and the recipe called `recipe_name` that reads it. `checkpoint`: its headers, and its
    data where they were fetched (steps/fetch.py).
    """

    source: ResolvedSource
    checkpoint: Checkpoint
    recipe_name: str
    recipe: Recipe

    def config(self, ask: Ask) -> ModelConfig:
        """Raises LmiCompileError where the recipe cannot read config.json."""
        hf = self.checkpoint.config
        return self.recipe.resolve(hf, ask.variant).model_config(hf, ask.rope_scaling)


def locate(request: PlanRequest) -> LocatedModel:
    """The model with its headers: of a remote one, config.json, the tokenizer and headers are fetched, of one that is
    quantized already, the headers are those of its weights once unpacked. Raises LmiCompileError.
    """
    source = located_source(request, "metadata")
    checkpoint = source.checkpoint(request.cache / "unpickled")
    how = packed(checkpoint.config)
    return with_recipe(request, source, after_rewrite(checkpoint, how) if how else checkpoint)


def located_source(request: PlanRequest, files: Files) -> ResolvedSource:
    """The files of the model, as far as `files` says, in a folder of this machine. Raises LmiCompileError."""
    recipes = request.recipes
    known = [model for name in recipes.available() for model in recipes.load(name).models]
    model = recipes.published(request.model) or request.model
    return resolve(model, request.revision, cache=request.cache / "sources", files=files, known=known)


def with_recipe(request: PlanRequest, source: ResolvedSource, checkpoint: Checkpoint) -> LocatedModel:
    """The checkpoint with the recipe that is asked for, or else the one for its config.json. Raises RefusedError."""
    if request.recipe is None:
        return LocatedModel(source, checkpoint, *request.recipes.for_config(checkpoint.config))
    return LocatedModel(source, checkpoint, request.recipe, request.recipes.load(request.recipe))


def plan_model(model: LocatedModel, target: str, ask: Ask, max_memory: int) -> Plan:
    """The plan of a located model. Raises LmiCompileError."""
    # Which toolchains need a text for a scheme is known later.
    if ask.quant.requested and not ask.quant.text.digest:
        ask = replace(ask, quant=replace(ask.quant, text=resolve_text(ask.quant.text)))
    checkpoint = model.checkpoint
    return make_plan(
        model.recipe_name,
        model.recipe,
        targets.load(target),
        checkpoint.config,
        checkpoint.tensors,
        ask,
        max_memory,
        checkpoint.notes,
    )


def plan_of(request: PlanRequest) -> Plan:
    """The plan of a request, from metadata alone. Raises LmiCompileError."""
    return plan_model(locate(request), request.target, request.ask, request.resources.max_memory)
