"""Between what is asked of quantisation and what a manifest says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compiler.artifact.quantisation import Calibration, Gate, Quantisation
from compiler.quant.asked import NONE, Quant, Text
from compiler.quant.schemes import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.stages.calibration.samples import Samples

_FIELDS = ("weights", "weight_scales", "activations", "activation_scales", "search")
"""Of a scheme, by their names in a manifest."""


def quantisation(quant: Quant, gate: Gate, samples: Samples | None, alphas: Mapping[str, float]) -> Quantisation:
    """The section of the manifest. `samples`: what it was calibrated with, where it was; `alphas`: of every group where
    they were searched for.
    """
    unquantised: dict[str, Any] = {"scheme": "", "weights": "float", "weight_scales": "tensor", "search": ""}
    unquantised |= {"activations": "float", "activation_scales": "tensor"}
    scheme = quant.scheme
    of_scheme = {"scheme": scheme.name} | {name: getattr(scheme, name) for name in _FIELDS} if scheme else unquantised
    return Quantisation(
        **of_scheme,
        alpha=quant.alpha if quant.smooths else None,
        alphas=dict(alphas),
        kv_cache=quant.cache,
        calibration=_calibration(quant.text, samples) if samples else None,
        gate=gate,
    )


def _calibration(text: Text, samples: Samples) -> Calibration:
    return Calibration(
        text=samples.name, digest=samples.text, samples=text.samples, length=text.length, tokens=samples.tokens
    )


def quant_of(found: Quantisation | None) -> Quant:
    """What was asked for, of an artifact with this section; what decides its rank files is the same."""
    if found is None:
        return NONE
    scheme = None
    if found.scheme:
        scheme = replace(SCHEMES[found.scheme], **{name: getattr(found, name) for name in _FIELDS})
    text = Text()
    if found.calibration is not None:
        of = found.calibration
        text = Text(samples=of.samples, length=of.length, digest=of.digest)
    smooths = scheme is not None and scheme.search == "smooth"
    return Quant(scheme, found.alpha if smooths else Quant().alpha, found.kv_cache, text)
