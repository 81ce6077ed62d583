"""The quantisation schemes: what each makes of weights and activations, what it needs, and what it may cost.

Data only: a target says in its own table which of them it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.quantization.formats.int4 import GROUP

Format = Literal["int8", "int4", "fp8", "float"]
Per = Literal["tensor", "channel", "group", "token"]
Search = Literal["", "smooth", "awq"]


@dataclass(frozen=True)
class Tolerance:
    """What the numerics gate lets pass, against the unquantised model.

    `perplexity`: increase on held-out text, as a share; `kl`: mean divergence of the next token, in nats; `cosine`: of
    every layer's output, at least.
    """

    perplexity: float
    kl: float
    cosine: float


@dataclass(frozen=True)
class Scheme:
    """`search`: how columns are scaled before rounding. `activations` "float": only weights are quantised."""

    name: str
    weights: Format
    weight_scales: Per
    activations: Format
    activation_scales: Per
    search: Search
    tolerance: Tolerance

    @property
    def calibrated(self) -> bool:
        """Whether it needs text: for a search, or for activation scales that are fixed before it runs."""
        return bool(self.search) or (self.activations != "float" and self.activation_scales == "tensor")

    @property
    def weight_bits(self) -> int:
        return {"int8": 8, "fp8": 8, "int4": 4, "float": 16}[self.weights]


CLOSE = Tolerance(perplexity=0.005, kl=0.005, cosine=0.999)
_EIGHT_BITS = Tolerance(perplexity=0.02, kl=0.02, cosine=0.99)
_FOUR_BITS = Tolerance(perplexity=0.08, kl=0.08, cosine=0.97)

CACHES = {"int8": CLOSE, "fp8": _EIGHT_BITS}
"""What a quantised cache may cost by itself, by its format."""

UNQUANTISED = Scheme("none", "float", "tensor", "float", "tensor", "", CLOSE)
"""Of a model of which only the cache is quantised."""

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8-weight", "int8", "channel", "float", "tensor", "", CLOSE),
        Scheme("int4-weight", "int4", "group", "float", "tensor", "", _FOUR_BITS),
        Scheme("awq", "int4", "group", "float", "tensor", "awq", _FOUR_BITS),
        Scheme("smoothquant", "int8", "channel", "int8", "token", "smooth", _EIGHT_BITS),
        Scheme("fp8", "fp8", "channel", "fp8", "token", "", _EIGHT_BITS),
    )
}
"""By name. Tolerances are those of the finest mode: a coarser one does not get wider ones."""


def check_scheme(scheme: Scheme, config: ModelConfig, tp: int) -> None:
    """Raises RefusedError where a rank's rows do not divide into groups, which a group may not straddle."""
    if scheme.weight_scales != "group":
        return
    kinds = {kind.mlp for kind in config.layer_kinds}
    widths = {"hidden size": config.hidden, "attention width of a rank": config.heads * config.head_dim // tp}
    if kinds & {"gated", "plain"}:
        widths["mlp width of a rank"] = config.ffn // tp
    if "moe" in kinds:
        widths["expert width of a rank"] = config.moe_ffn // tp
    if config.shared_ffn:
        widths["shared expert width of a rank"] = config.shared_ffn // tp
    odd = [f"{name} {width}" for name, width in widths.items() if width % GROUP]
    if odd:
        raise RefusedError(
            f"`{scheme.name}` rounds {GROUP} neighbours of a row together; these do not divide: {', '.join(odd)}",
            hint="a smaller `--tp` may divide; `int8-weight` has one scale a row and takes any width",
        )
