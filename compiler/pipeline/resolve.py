"""Locate a model: where it is, its metadata, and the recipe that reads it. No weight is fetched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compiler import targets
from compiler.calibration.samples import resolve_text
from compiler.errors import AccountingError, RefusedError, UnknownArchitecture
from compiler.model.account import filled_by
from compiler.model.read import stored_dtype
from compiler.model.unknown import UNKNOWN, UnknownModel, unknown_model
from compiler.pipeline.plan import Plan, make_plan
from compiler.pipeline.room import room_note
from compiler.pipeline.tied import untie_different
from compiler.quantization.prequantized.checkpoint import after_rewrite
from compiler.quantization.prequantized.declaration import KEY, with_declaration
from compiler.quantization.prequantized.formats import Packed, packed
from compiler.storage.checkpoints.index import raise_problems
from compiler.storage.checkpoints.resolve import resolve
from compiler.storage.checkpoints.source import Asking
from compiler.storage.checkpoints.text_part import text_checkpoint
from compiler.tokenizer.notes import tokenizer_notes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from compiler.model.config import ModelConfig
    from compiler.model.published import PublishedModel
    from compiler.model.recipe import Recipe
    from compiler.pipeline.request import Ask, PlanRequest
    from compiler.storage.checkpoints.checkpoint import Checkpoint
    from compiler.storage.checkpoints.source import Files, ResolvedSource


@dataclass(frozen=True)
class LocatedModel:
    """A model on this machine, and the recipe called `recipe_name` that reads it. `checkpoint`: its headers, and its
    data where they were fetched (steps/fetch.py). `published`: the config that comes along, where that is all there is,
    and why the hub was `unanswered`.
    """

    source: ResolvedSource
    checkpoint: Checkpoint
    recipe_name: str
    recipe: Recipe
    published: PublishedModel | None = None
    unanswered: str = ""

    def config(self, ask: Ask) -> ModelConfig:
        """Raises LmiCompileError where the recipe cannot read config.json."""
        hf = self.checkpoint.config
        recipe = self.recipe.resolve(hf, ask.variant)
        return recipe.model_config(hf, ask.rope_scaling, stored_dtype(self.checkpoint.tensors))


def locate(request: PlanRequest, asking: Asking | None = None) -> LocatedModel:
    """The model with its headers: of a remote one, config.json, the tokenizer and headers are fetched, of one that is
    quantized already, the headers are those of its weights once unpacked. Raises LmiCompileError.
    """
    source = located_source(request, "metadata", asking)
    checkpoint = opened(request, source)
    how = unpacking(request, checkpoint)
    return with_recipe(request, source, after_rewrite(checkpoint, how) if how else checkpoint)


def located_source(request: PlanRequest, files: Files, asking: Asking | None = None) -> ResolvedSource:
    """The files of the model, as far as `files` says, in a folder of this machine. `asking`: how the hub is asked;
    None: as the request says. Raises LmiCompileError.
    """
    recipes = request.recipes
    known = [model for name in recipes.available() for model in recipes.load(name).models]
    model = recipes.published(request.model) or request.model
    how = asking or Asking(offline=request.offline)
    return resolve(model, request.revision, cache=request.cache / "sources", files=files, known=known, how=how)


def opened(request: PlanRequest, source: ResolvedSource) -> Checkpoint:
    """The checkpoint of a source, or its text part where the request is for that. Raises LmiCompileError."""
    checkpoint = with_declaration(source.checkpoint(request.cache / "unpickled"))
    return text_checkpoint(checkpoint) if request.text_only else checkpoint


def with_recipe(request: PlanRequest, source: ResolvedSource, checkpoint: Checkpoint) -> LocatedModel:
    """The checkpoint with the recipe that is asked for, or else the one for its config.json; untied where its head is
    not its embedding. Raises RefusedError.
    """
    if request.recipe is None:
        if (unread := _unread(request, checkpoint)) is not None:
            return LocatedModel(source, checkpoint, UNKNOWN, unread)
        name, recipe = request.recipes.for_config(checkpoint.config)
    else:
        name, recipe = request.recipe, request.recipes.load(request.recipe)
        _refuse_foreign(name, recipe, checkpoint.config)
    return LocatedModel(source, untie_different(checkpoint, recipe, request.ask.variant), name, recipe)


def unpacking(request: PlanRequest, checkpoint: Checkpoint) -> Packed | None:
    """How a checkpoint is quantized that is to be unpacked; None for others, and for one that is packed as it is."""
    copied = _unread(request, checkpoint) is not None or copies_quantized(request, checkpoint)
    return None if copied else packed(checkpoint.config)


def copies_quantized(request: PlanRequest, checkpoint: Checkpoint) -> bool:
    """Whether the target copies a quantized checkpoint that a recipe reads. Raises LmiCompileError."""
    layout, hf, ask = targets.load(request.target).layout, checkpoint.config, request.ask
    if layout is None or KEY not in hf:
        return False
    recipe = request.recipes.load(request.recipe) if request.recipe else request.recipes.for_config(hf)[1]
    config = recipe.resolve(hf, ask.variant).model_config(hf, ask.rope_scaling, stored_dtype(checkpoint.tensors))
    return bool(layout.copies(config, ask.options or targets.load(request.target).options()))


def _unread(request: PlanRequest, checkpoint: Checkpoint) -> UnknownModel | None:
    """Stand-in for a recipe, where none reads the model and the target copies such checkpoints."""
    layout = targets.load(request.target).layout
    if request.recipe is not None or layout is None:
        return None
    try:
        request.recipes.for_config(checkpoint.config)
    except UnknownArchitecture:
        found = unknown_model(checkpoint.config)
        config = found.model_config(checkpoint.config, None, stored_dtype(checkpoint.tensors))
        options = request.ask.options or targets.load(request.target).options()
        return found if layout.copies(config, options) else None
    return None


def _refuse_foreign(name: str, recipe: Recipe, hf: Mapping[str, Any]) -> None:
    """Refuse a recipe for an architecture that it does not list: equal tensors do not make equal mathematics."""
    found, kind = recipe.architecture(hf), hf.get("model_type")
    if not hf.get("architectures") and recipe.model_types and isinstance(kind, str) and kind not in recipe.model_types:
        found = f"of model_type {kind!r}"
    if found not in recipe.hf_architectures:
        listed = " or ".join(recipe.hf_architectures)
        raise RefusedError(
            f"the recipe `{name}` reads {listed}; config.json names the architecture {found}",
            hint=f"leave `--recipe` out; if the model computes what {listed} does, say so in config.json: "
            f'`"architectures": ["{recipe.hf_architectures[0]}"]`',
        )


def plan_model(model: LocatedModel, target: str, ask: Ask, max_memory: int) -> Plan:
    """The plan of a located model. Raises LmiCompileError."""
    # Which toolchains need a text for a scheme is known later.
    if ask.quant.requested and not ask.quant.text.digest:
        ask = replace(ask, quant=replace(ask.quant, text=resolve_text(ask.quant.text)))
    checkpoint = model.checkpoint
    try:
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
    except AccountingError:
        _check_index(model, ask)
        raise


def _check_index(model: LocatedModel, ask: Ask) -> None:
    """Raise CheckpointError if the model needs tensors on which its index and its files differ."""
    config, difference = model.config(ask), model.checkpoint.difference
    recipe = model.recipe.resolve(model.checkpoint.config, ask.variant)
    problems = [
        *(f"the index puts `{name}` into {file}, whose header lacks it" for name, file in difference.absent.items()),
        *(f"{file} has `{name}`, which the index does not list" for name, file in difference.unlisted.items()),
    ]
    names = [*difference.absent, *difference.unlisted]
    needed = [line for name, line in zip(names, problems, strict=True) if filled_by(recipe, config, name)]
    raise_problems(needed, str(model.checkpoint.folder), "download the index and the files named above again")


def plan_with_notes(model: LocatedModel, request: PlanRequest, tokenizer: Path | None = None) -> Plan:
    """The plan of a located model, with notes on its tokenizer: that in the folder `tokenizer`, or else its own; and
    on its room on the request's instance type.

    Raises LmiCompileError, TokenizerError for a tokenizer that cannot be loaded.
    """
    plan = plan_model(model, request.target, request.ask, request.resources.max_memory)
    plan = replace(plan, published=model.published, unanswered=model.unanswered)
    container = targets.load(request.target).packager.transformers(plan.options)
    folder = tokenizer or (None if model.published else model.source.folder)
    notes = tokenizer_notes(folder, plan.config.vocab, container) if folder else ()
    room = [room_note(plan, request.instance_type)] if request.instance_type else []
    return replace(plan, notes=(*plan.notes, *notes, *room))
