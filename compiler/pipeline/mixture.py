"""`--quant auto`: the mixture of schemes with the fewest bytes whose measured cost fits, held to the gate.

costs of parts ──> mixtures, fewest bytes last ──> measured on text ──> those within the limit ──> convert, gate
                                                                             ^                          │ refused
                                                                             └────── the next one ──────┘
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import log1p
from typing import TYPE_CHECKING, Any

from compiler.artifact.quantization import MixtureRow, MixtureSection
from compiler.errors import NumericsError, RefusedError
from compiler.numerics.compare import rounded
from compiler.numerics.mixture.choice import NONE
from compiler.pipeline.resolve import plan_model
from compiler.pipeline.steps.gate import refused_report, tolerance
from compiler.pipeline.steps.mixture import measured
from compiler.pipeline.support import taken
from compiler.pipeline.weights import rank_files
from compiler.quantization.request import Quant
from compiler.quantization.schemes import MIXED, SCHEMES
from compiler.report import amount

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.calibration.samples import Samples
    from compiler.pipeline.job import Job, Prepared
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.steps.digest import Source
    from compiler.pipeline.steps.mixture import MeasuredMixtures, Rung
    from compiler.quantization.schemes import Scheme

_DIVERGENCE = 4.0
"""Largest divergence of a mixture, in multiples of the largest increase of the loss. The increase over a short text
scatters by more than small mixtures cost, the divergence hardly does; measured, it is one to four times the increase.
"""


@dataclass(frozen=True)
class Ladder:
    """Mixtures of a model with their plans, from the unquantized model to the fewest bytes."""

    job: Job
    prepared: Prepared
    schemes: Sequence[Scheme]
    measured: MeasuredMixtures

    @cached_property
    def plans(self) -> list[Plan]:
        """Plan of every rung."""
        return [self._plan(rung) for rung in self.measured.rungs]

    @property
    def limit(self) -> float:
        """Largest increase of the perplexity, as a share."""
        quant = self.prepared.plan.quant
        asked = quant.max_perplexity_increase
        return tolerance(quant).perplexity if asked is None else asked

    def fitting(self) -> list[int]:
        """Rungs within the limit, the fewest bytes first. The unquantized model is the last."""
        found = [i for i, rung in enumerate(self.measured.rungs) if i == 0 or self._fits(rung)]
        return sorted(found, reverse=True)

    def at(self, rung: int) -> Prepared:
        """The model in the mixture of a rung."""
        section = MixtureSection(
            parts=_parts(self.measured.rungs[rung]),
            costs={part: {name: rounded(of) for name, of in own.items()} for part, own in self.measured.costs.items()},
            text=self.measured.text,
            tokens=self.measured.tokens,
            chosen=rung,
            table_tokens=self.measured.rung_tokens,
            table=[_row(of, plan) for of, plan in zip(self.measured.rungs, self.plans, strict=True)],
        )
        return replace(self.prepared, plan=self.plans[rung], mixture=section)

    def _plan(self, rung: Rung) -> Plan:
        request = self.job.request
        quant = self.prepared.plan.quant
        assert quant.scheme is not None
        mixed = replace(quant, scheme=replace(quant.scheme, parts=rung.parts(self.schemes)))
        ask = replace(request.ask, quant=mixed)
        return plan_model(self.prepared.model, request.target, ask, request.resources.max_memory)

    def _fits(self, rung: Rung) -> bool:
        found = rung.evidence
        return found.increase <= self.limit and found.kl <= _DIVERGENCE * log1p(self.limit)


def mixed(
    job: Job,
    prepared: Prepared,
    source: Source,
    samples: Samples | None,
    held_out: Samples | None,
    tokenizer: Path | None,
) -> Prepared:
    """The model in the mixture with the fewest bytes that the gate passes. `samples`, `held_out`: see `rank_files`.

    Raises RefusedError where the target runs no scheme for a part of this model, and the errors of `measured`.
    """
    plan, runner, layout = prepared.plan, job.runner, job.target.layout
    assert layout is not None, "targets without rank files refuse quantization"
    schemes = candidates(job, plan)
    found = measured(runner, source, plan, schemes, samples, tokenizer, job.request.resources.max_memory)
    ladder = Ladder(job, prepared, schemes, found)
    *fewer, last = ladder.fitting()
    for rung in fewer:
        chosen = ladder.at(rung)
        _report(job, ladder, rung)
        try:
            rank_files(job, layout, chosen, source, samples, held_out)
        except NumericsError as error:
            runner.report.warn(
                f"mixture {rung} of {len(found.rungs) - 1} is refused, the next is tried: {error.message}"
            )
            for place in refused_report(job.request.output):
                place.unlink(missing_ok=True)
            continue
        return chosen
    _report(job, ladder, last)
    return ladder.at(last)


def candidates(job: Job, plan: Plan) -> list[Scheme]:
    """Schemes that parts may have, with the groups that divide this model. Raises RefusedError where there are none."""
    found, reasons, options = [], [], plan.options.without_derived()
    for name in MIXED:
        quant = Quant(SCHEMES[name], group=plan.quant.group if SCHEMES[name].group else None)
        try:
            scheme = taken(job.target, plan.config, quant, plan.tp, options, plan.limits).quant.scheme
        except RefusedError as error:
            reasons.append(error.message)
            continue
        assert scheme is not None
        found.append(scheme)
    if not found:
        raise RefusedError("no scheme can be mixed: " + "; ".join(reasons), hint="leave `--quant` out")
    for reason in reasons:
        job.runner.report.warn(f"without one of the schemes: {reason}")
    return found


def _report(job: Job, ladder: Ladder, rung: int) -> None:
    """The trade, one line for each mixture: bytes, expected decode speed here, cost."""
    report, lines = job.runner.report, []
    report.begin("mixture")
    for i, (of, plan) in enumerate(zip(ladder.measured.rungs, ladder.plans, strict=True)):
        speed = "; ".join(finding.text.split(":")[0] for finding in job.target.runtime.speed(plan))
        lines.append(
            f"{'>' if i == rung else ' '} {i:2} {amount(max(one.nbytes for one in plan.ranks), 'bytes'):>8} a rank, "
            f"{_counts(of)}: perplexity {of.evidence.increase:+.2%}, KL {of.evidence.kl:.2g}"
            + (f"; {speed}" if speed else "")
        )
    report.end("\n".join([f"limit {ladder.limit:+.2%}", *lines]))


def _parts(rung: Rung) -> dict[str, str]:
    return {
        f"layers.{layer}.{part}": name
        for layer, (attn, mlp) in enumerate(rung.mixture)
        for part, name in (("attn", attn), ("mlp", mlp))
    }


def _counts(rung: Rung) -> str:
    """`12 gptq, 20 int8-weight, 16 none`."""
    names = [name for layer in rung.mixture for name in layer]
    return ", ".join(f"{names.count(name)} {name}" for name in [*sorted(set(names) - {NONE}), NONE] if name in names)


def _row(rung: Rung, plan: Plan) -> MixtureRow:
    names, found = [name for layer in rung.mixture for name in layer], rung.evidence
    fields: dict[str, Any] = {
        "rank_bytes": max(rank.nbytes for rank in plan.ranks),
        "parts": {name: names.count(name) for name in sorted(set(names))},
        "perplexity_increase": rounded(found.increase),
        "perplexity_increase_interval": [rounded(end) for end in found.increase_interval],
        "kl": rounded(found.kl),
    }
    return MixtureRow(**fields)
