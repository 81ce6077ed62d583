"""One-line notes of build steps: what the progress report says when a step ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.report import amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.artifact.manifest import Manifest, Numerics
    from compiler.pipeline.plan import Plan


def alphas_text(alphas: Mapping[str, float]) -> str:
    """`alpha 0.45 to 0.7, most often 0.5`; nothing where none was searched for."""
    if not alphas:
        return ""
    found = sorted(alphas.values())
    return f"alpha {found[0]:g} to {found[-1]:g}, most often {max(found, key=found.count):g}"


def plan_note(plan: Plan) -> str:
    """The plan in a line."""
    size = f"{amount(plan.ranks[0].nbytes, 'bytes')} a rank" if plan.ranks else "the checkpoint as it is"
    return f"{plan.config.architecture}, tp {plan.tp}, {plan.dtype}, {size}"


def ranks_text(plan: Plan) -> str:
    """`2 rank file(s), 1.2 GB`."""
    return f"{len(plan.ranks)} rank file(s), {amount(sum(rank.nbytes for rank in plan.ranks), 'bytes')}"


def numerics_text(manifest: Manifest) -> str:
    if manifest.numerics is None:
        return "digests and layout are right; its logits were not computed"
    return figures_text(manifest.numerics)


def figures_text(found: Numerics) -> str:
    of = "" if found.reference_file else " (its checkpoint, before it was compiled)"
    return (
        f"logits of {found.tokens} tokens against {found.reference}: median KL {found.kl_median:g} nats, "
        f"cosine {found.cosine:g}, top-1 agreement {found.top1_agreement:g}{of}"
    )
