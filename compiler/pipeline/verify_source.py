"""Verify an artifact against its source itself, not against the logits that it carries along (`verify --model`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compiler import targets
from compiler.artifact.manifest import load_manifest
from compiler.artifact.quantization import quant_of
from compiler.errors import SourceError, UsageError
from compiler.model.config import ModelConfig
from compiler.numerics.passages import REFERENCE, read_reference
from compiler.numerics.reference import source_passages
from compiler.pipeline.package import source_kind
from compiler.pipeline.request import Ask
from compiler.pipeline.resolve import plan_model
from compiler.pipeline.steps.digest import source_digest
from compiler.pipeline.steps.fetch import fetch
from compiler.report import Silent
from compiler.storage.cache.stages import open_cache

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.artifact.manifest import Manifest
    from compiler.numerics.passages import Expected
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.request import PlanRequest
    from compiler.pipeline.resolve import LocatedModel


def source_logits(artifact: Path, request: PlanRequest) -> Expected:
    """Logits of the model of `request` for the rows that the artifact is verified on.

    tp, dtype, limits and options are those of the artifact. Raises SourceError where the artifact was made of another
    model, and the errors of `fetch` and `plan_model`.
    """
    manifest = load_manifest(artifact)
    if not (artifact / REFERENCE).exists():
        raise UsageError(
            f"`{manifest.name}` holds engines, which do not run here: there are no logits to compare",
            hint="pass the checkpoint that they were built from",
        )
    config = manifest.config
    ask = Ask(
        tp=manifest.parallel.tp,
        dtype=manifest.dtype,
        max_positions=manifest.limits.max_positions,
        max_batch=manifest.limits.max_batch,
        rope_scaling=config.rope_scaling,
        variant=request.ask.variant,
        options=targets.load(manifest.target).packager.options_of(manifest),
        quant=quant_of(manifest.quantisation),
    )
    request = replace(
        request, ask=ask, recipe=manifest.model.recipe, target=manifest.target, text_only=manifest.model.text_only
    )
    model = fetch(request)
    plan = plan_model(model, manifest.target, ask, request.resources.max_memory)
    differing = _differing(manifest, config, plan, model, request)
    if differing:
        raise SourceError(
            f"`{manifest.name}` was not made of {request.model}: {', '.join(differing)}",
            hint="`lmi-compile inspect` shows what it was made of",
        )
    stored = read_reference(artifact / REFERENCE)
    straight = stored.straight.rows
    # Quantized models are verified against their rank files, and have no lowered rows: the beginning of the first one.
    lowered = (
        stored.lowered.rows if stored.lowered else tuple(straight[0][:length] for length in plan.proof.lowered_rows)
    )
    tensors = plan.account.tensors
    rows, most = (straight, lowered), request.resources.max_memory
    return source_passages(plan.config, plan.proof.lowered, tensors, model.checkpoint, rows, most)[1]


def _differing(
    manifest: Manifest, config: ModelConfig, plan: Plan, model: LocatedModel, request: PlanRequest
) -> list[str]:
    """Facts of the plan that the artifact denies, in words."""
    if plan.digest == manifest.plan_digest:
        return []
    if manifest.writer:  # manifests without one, of schema 1, have plan digests that no later version computes
        return [f"their plans differ ({manifest.plan_digest}, {plan.digest})"]
    facts: dict[str, tuple[object, object]] = {
        "config": (config, plan.config),
        "tp": (manifest.parallel.tp, plan.tp),
        "dtype": (manifest.dtype, plan.dtype),
    }
    if source_kind(model.source) == manifest.model.source:  # a copy in a folder has another digest than at its hub
        cache = open_cache(request.cache, None, warn=Silent().warn)
        digest = source_digest(cache, Silent(), model.source, model.checkpoint)
        facts["source digest"] = (manifest.model.source_digest, digest)
    return [f"their {name} differs" for name, (made, found) in facts.items() if made != found]
