"""The model of a plan: as the hub has it, or by its published config where the hub does not answer.

Only plans: a build needs the weights, and so the hub's answer or its cache.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.errors import CheckpointError, OnlyPickledError, SourceError, boundary
from compiler.pipeline.resolve import LocatedModel, copies_quantized, locate, plan_with_notes, with_recipe
from compiler.storage.checkpoints.checkpoint import from_headers
from compiler.storage.checkpoints.source import Asking, ResolvedSource

if TYPE_CHECKING:
    from compiler.model.published import PublishedModel
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.request import PlanRequest

SECONDS = 5.0
"""Time limit of the hub's first answer where a published config could answer instead."""


def located_for_plan(request: PlanRequest) -> LocatedModel:
    """The model with its headers, of which the published config that comes along is the last resort: where the hub is
    not reached within SECONDS, does not show the model, or has it as pickles alone. Raises LmiCompileError.
    """
    published = None if request.revision else _published(request)
    if published is None:
        return locate(request)
    try:
        return locate(request, Asking(SECONDS, request.offline))
    except SourceError as error:
        if isinstance(error, CheckpointError) and not isinstance(error, OnlyPickledError):
            raise
        return _by_config(request, published, error)


def _published(request: PlanRequest) -> PublishedModel | None:
    recipes = request.recipes
    return recipes.published_model(recipes.published(request.model) or request.model)


def _by_config(request: PlanRequest, published: PublishedModel, error: SourceError) -> LocatedModel:
    """The model by its published config. Raises `error` where a target copies its quantized tensors as they are."""
    name, recipe = request.recipes.for_config(published.config)
    reason = error.message.splitlines()[0]
    checkpoint = from_headers(dict(published.config), published.headers(recipe, request.ask.variant))
    if copies_quantized(request, checkpoint):
        raise SourceError(
            f"{error.message}; `{request.target}` copies its quantized tensors, unknown to its published config",
            hint=error.hint,
        )
    found = with_recipe(replace(request, recipe=request.recipe or name), ResolvedSource(checkpoint.folder), checkpoint)
    return replace(found, published=published, unanswered=reason)


def plan_of(request: PlanRequest) -> Plan:
    """The plan of a request, from metadata alone. Raises LmiCompileError."""
    with boundary(step="plan", input=request.model):
        return plan_with_notes(located_for_plan(request), request)
