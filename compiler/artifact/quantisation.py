"""The section of manifest.json that says how a model was quantised, from what text, and what it has lost by it."""

from __future__ import annotations

from typing import Literal

from compiler.artifact.sections import InnerPath, Sha256, Size, Strict

REPORT = "numerics.html"
"""The gate's page, in the artifact."""
FIGURES = "numerics.json"
"""The same for scripts: of every part of every layer, and of every input."""


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
    """Over `tokens` of the held-out text `text`, against the unquantised model; definitions: stages/gate/verdict.py.

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
    """`scheme` and what it means: see quant/schemes.py; "" where only the cache is quantised. `alpha`: of SmoothQuant;
    None where nothing is smoothed, or where `alphas` has one for every group, by layer and group.
    """

    scheme: str
    weights: str
    weight_scales: str
    activations: str
    activation_scales: str
    search: str
    alpha: float | None
    alphas: dict[str, float]
    kv_cache: Literal["", "int8", "fp8"]
    calibration: Calibration | None
    gate: Gate
