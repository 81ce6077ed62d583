"""`verify --model`: an artifact against its source itself, not against the logits that it carries along."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compiler import targets
from compiler.artifact.manifest import load_manifest
from compiler.errors import SourceError, UsageError
from compiler.model.config import ModelConfig
from compiler.build.requests import prepare
from compiler.build.plan import Ask
from compiler.artifact.quantization import quant_of
from compiler.numerics.reference import REFERENCE, read_reference, reference_logits

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from compiler.build.requests import PlanRequest


def source_logits(artifact: Path, request: PlanRequest) -> NDArray[np.float32]:
    """Logits float32 [tokens, vocab] of the model of `request` for the tokens that the artifact is verified
    on.

    What is asked of the model (tp, dtype, limits) is taken from the artifact. Raises SourceError where the
    artifact was made of another model, and what `prepare` raises.
    """
    manifest = load_manifest(artifact)
    if not (artifact / REFERENCE).exists():
        raise UsageError(
            f"`{manifest.name}` holds engines, which do not run here: there are no logits to compare",
            hint="pass the checkpoint that they were built from",
        )
    ask = Ask(
        tp=manifest.parallel.tp,
        dtype=manifest.dtype,
        max_positions=manifest.limits.max_positions,
        max_batch=manifest.limits.max_batch,
        rope_scaling=ModelConfig.from_json(manifest.model.config).rope_scaling,
        variant=request.ask.variant,
        options=targets.load(manifest.target).packager.options_of(manifest),
        quant=quant_of(manifest.quantisation),
    )
    prepared = prepare(replace(request, ask=ask, recipe=manifest.model.recipe, target=manifest.target), "all")
    if prepared.plan.digest != manifest.plan_digest:
        raise SourceError(
            f"`{manifest.name}` was not made of {request.model}: their plans differ "
            f"({manifest.plan_digest}, {prepared.plan.digest})",
            hint="`lmi-compile inspect` shows what it was made of",
        )
    ids, _ = read_reference(artifact / REFERENCE)
    return reference_logits(prepared.plan.config, prepared.plan.account.tensors, prepared.checkpoint, ids)[1]
