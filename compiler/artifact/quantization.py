"""Quantization in manifest.json: scheme, calibration text, and figures of the gate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compiler.artifact.sections import CacheFormat, HeadFormat, InnerPath, Sha256, Size, Strict
from compiler.quantization.proof_levels import CPU
from compiler.quantization.request import NONE, Quant, Text
from compiler.quantization.schemes import AUTO, SCHEMES, SMOOTH, UNQUANTIZED, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

REPORT = "numerics.html"
"""Report of the gate in the artifact."""
FIGURES = "numerics.json"
"""Figures of the gate as JSON, for every part of every layer and every input."""


class Calibration(Strict):
    """Calibration text. `text`: file name; `digest`: of its bytes; `samples`, `length`: requested limits; `tokens`:
    number of tokens used.
    """

    text: str
    digest: Sha256
    samples: Size
    length: Size
    tokens: Size


class GateCoverage(Strict):
    """Extent of the gate: the value of `--proof`; `layers` whose parts were compared over `part_tokens` tokens, drawn
    with `seed` where they are not all. `device`: computed the source and its scheme, and files that no judge reads.
    """

    proof: str
    part_tokens: int
    layers: list[int]
    seed: int
    device: str = CPU


class Gate(Strict):
    """Figures over `tokens` of the held-out text with digest `text`, against the unquantized model.

    Definitions: numerics/gate/verdict.py and evidence.py. `cosine`: smallest of any part of a layer; `worst`: part with
    the largest error beside its residual stream, `stream`; `distance`: largest of any part from its scheme. `limits`:
    of perplexity (increase, a share), kl (nats) and stream; older manifests have the cosine's. `accepted`: figures
    beyond a limit were accepted.
    """

    text: Sha256
    tokens: Size
    perplexity_float: float
    perplexity: float
    perplexity_increase: float
    kl: float
    top1_agreement: float
    cosine: float
    worst: str
    stream: float | None = None
    distance: float | None = None
    perplexity_increase_interval: list[float] | None = None
    kl_interval: list[float] | None = None
    coverage: GateCoverage | None = None
    limits: dict[str, float]
    accepted: bool
    report: InnerPath

    @property
    def bounds(self) -> dict[str, float]:
        """Limits in force; unbounded for finite figures where exceeding them was accepted."""
        return {"perplexity": 1e9, "kl": 1e9, "stream": 1e9} if self.accepted else self.limits


class MixtureRow(Strict):
    """A mixture that was measured: bytes of the largest rank file, number of parts by scheme, cost on the text."""

    rank_bytes: Size
    parts: dict[str, int]
    perplexity_increase: float
    perplexity_increase_interval: list[float]
    kl: float


class MixtureSection(Strict):
    """Mixture of schemes. `parts`: scheme of every part of a layer, `none` for floating point; `costs`: in nats, of
    each part alone in each scheme, over `tokens` tokens of the held-out text with digest `text`; `table`: mixtures from
    the unquantized model to the fewest bytes, over `table_tokens` others, of which `chosen` is this one.
    """

    parts: dict[str, str]
    costs: dict[str, dict[str, float]]
    text: Sha256
    tokens: Size
    chosen: int
    table_tokens: Size
    table: list[MixtureRow]


class Quantisation(Strict):
    """Quantization of an artifact. `scheme` and its fields: quantization/schemes.py; "": only cache or head are
    quantized. `group`: neighbors in a row that share a scale; None: a whole row, or in older manifests groups of 128.

    `alpha`: of SmoothQuant; None without it, or where `alphas` has one for each layer and group. `mixture`: of scheme
    `auto`, whose `group` is that of all its parts with groups.
    """

    scheme: str
    weights: str
    weight_scales: str
    group: int | None = None
    activations: str
    activation_scales: str
    search: str
    alpha: float | None
    alphas: dict[str, float]
    kv_cache: CacheFormat
    head: HeadFormat = ""
    calibration: Calibration | None
    mixture: MixtureSection | None = None
    gate: Gate


_FIELDS = ("weights", "weight_scales", "activations", "activation_scales", "search")
"""Fields of a scheme in a manifest."""


def quantization_section(
    quant: Quant,
    gate: Gate,
    calibration: Calibration | None,
    alphas: Mapping[str, float],
    mixture: MixtureSection | None = None,
) -> Quantisation:
    """Section for the request `quant`. `calibration` None: no text was needed. `alphas`: result of a search, by layer
    and group.
    """
    scheme = quant.scheme or UNQUANTIZED
    fields: dict[str, Any] = {name: getattr(scheme, name) for name in _FIELDS}
    return Quantisation(
        scheme=quant.scheme.name if quant.scheme else "",
        **fields,
        group=next((one.group for layer in scheme.parts or ((scheme,),) for one in layer if one.group), None),
        alpha=quant.alpha if quant.smooths else None,
        alphas=dict(alphas),
        kv_cache=quant.cache,
        head=quant.head,
        calibration=calibration,
        mixture=mixture,
        gate=gate,
    )


def quant_of(found: Quantisation | None) -> Quant:
    """Request that gives the rank files of an artifact with this section."""
    if found is None:
        return NONE
    scheme = None
    if found.scheme:
        own: dict[str, Any] = {name: getattr(found, name) for name in _FIELDS}
        scheme = replace(_known()[found.scheme], **own, parts=_parts(found))
        scheme = scheme if scheme.parts else replace(scheme, size=found.group or Scheme.size)
    text = Text()
    if found.calibration is not None:
        of = found.calibration
        text = Text(samples=of.samples, length=of.length, digest=of.digest)
    smooths = scheme is not None and scheme.search == SMOOTH
    return Quant(scheme, found.alpha if smooths else Quant().alpha, found.kv_cache, text, head=found.head)


def _known() -> dict[str, Scheme]:
    return {**SCHEMES, AUTO.name: AUTO, UNQUANTIZED.name: UNQUANTIZED}


def _parts(found: Quantisation) -> tuple[tuple[Scheme, Scheme], ...]:
    """Schemes of the parts of every layer."""
    if found.mixture is None:
        return ()
    named = {name: replace(one, size=found.group or one.size) if one.group else one for name, one in _known().items()}
    own = found.mixture.parts
    return tuple(
        (named[own[f"layers.{layer}.attn"]], named[own[f"layers.{layer}.mlp"]]) for layer in range(len(own) // 2)
    )
