"""The section of manifest.json on quantization: scheme, calibration text, and the findings of the gate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compiler.artifact.sections import CacheFormat, InnerPath, Sha256, Size, Strict
from compiler.quantization.request import NONE, Quant, Text
from compiler.quantization.schemes import SCHEMES, SMOOTH, UNQUANTIZED

if TYPE_CHECKING:
    from collections.abc import Mapping

REPORT = "numerics.html"
"""The gate's page, in the artifact."""
FIGURES = "numerics.json"
"""The gate's figures as JSON: every part of every layer, and every input."""


class Calibration(Strict):
    """`text`: name of the file, `digest` of its bytes; at most `samples` of at most `length` tokens were asked for, and
    `tokens` came of it.
    """

    text: str
    digest: Sha256
    samples: Size
    length: Size
    tokens: Size


class Gate(Strict):
    """Over `tokens` of the held-out text `text`, against the unquantized model; definitions: numerics/gate/verdict.py.

    `cosine`: the least of any part of a layer, that of `worst`; without parts 1 and "". `limits`: of perplexity
    (its increase, a share), kl (nats) and cosine. `accepted`: something is beyond its limit, and was accepted.
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
    limits: dict[str, float]
    accepted: bool
    report: InnerPath

    @property
    def bounds(self) -> dict[str, float]:
        """The limits that hold: none (of finite figures) where being beyond them was accepted."""
        return {"perplexity": 1e9, "kl": 1e9, "cosine": -1.0} if self.accepted else self.limits


class Quantisation(Strict):
    """`scheme` and its fields: see quantization/schemes.py; "" where only the cache is quantized. `alpha`: of
    SmoothQuant; None where nothing is smoothed, or where `alphas` has one for every group, by layer and group.
    """

    scheme: str
    weights: str
    weight_scales: str
    activations: str
    activation_scales: str
    search: str
    alpha: float | None
    alphas: dict[str, float]
    kv_cache: CacheFormat
    calibration: Calibration | None
    gate: Gate


_FIELDS = ("weights", "weight_scales", "activations", "activation_scales", "search")
"""Fields of a scheme, by their names in a manifest."""


def quantisation(
    quant: Quant, gate: Gate, calibration: Calibration | None, alphas: Mapping[str, float]
) -> Quantisation:
    """The section of the manifest for what was asked. `calibration` None: no text was needed. `alphas`: of every group
    of layers, where they were searched for.
    """
    scheme = quant.scheme or UNQUANTIZED
    fields: dict[str, Any] = {name: getattr(scheme, name) for name in _FIELDS}
    return Quantisation(
        scheme=quant.scheme.name if quant.scheme else "",
        **fields,
        alpha=quant.alpha if quant.smooths else None,
        alphas=dict(alphas),
        kv_cache=quant.cache,
        calibration=calibration,
        gate=gate,
    )


def quant_of(found: Quantisation | None) -> Quant:
    """The request for an artifact with this section: equal in everything that decides its rank files."""
    if found is None:
        return NONE
    scheme = None
    if found.scheme:
        scheme = replace(SCHEMES[found.scheme], **{name: getattr(found, name) for name in _FIELDS})
    text = Text()
    if found.calibration is not None:
        of = found.calibration
        text = Text(samples=of.samples, length=of.length, digest=of.digest)
    smooths = scheme is not None and scheme.search == SMOOTH
    return Quant(scheme, found.alpha if smooths else Quant().alpha, found.kv_cache, text)
