"""The quantization schemes: the formats of weights and activations, their scales, and what a scheme may cost.

Data only: a scheme names formats of `compiler.quantization.formats`, a target says in its own table which schemes it
runs. A scheme is added by a value in SCHEMES or CACHES; the choices of the command line are derived from them, so that
importing this file imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compiler.errors import RefusedError
from compiler.quantization.formats import load

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig

FLOAT = "float"
"""In the place of a format: not rounded."""
Per = Literal["tensor", "channel", "group", "token"]

UNSEARCHED, SMOOTH, ACTIVATION_AWARE = "", "smooth", "awq"
"""Searches for scales of columns before rounding: none, SmoothQuant's (`smooth.py`), AWQ's (`awq.py`)."""
ALPHA_OPTION = "--smoothquant-alpha"
"""The option that sets SmoothQuant's alpha."""


@dataclass(frozen=True)
class Tolerance:
    """Limits of the numerics gate, against the unquantized model.

    `perplexity`: increase on held-out text, as a share; `kl`: mean divergence of the next token, in nats; `cosine`: of
    every layer's output, at least.
    """

    perplexity: float
    kl: float
    cosine: float


CLOSE = Tolerance(perplexity=0.005, kl=0.005, cosine=0.999)
_EIGHT_BITS = Tolerance(perplexity=0.02, kl=0.02, cosine=0.99)
_FOUR_BITS = Tolerance(perplexity=0.08, kl=0.08, cosine=0.97)


@dataclass(frozen=True)
class Scheme:
    """`weights`, `activations`: names of formats, or FLOAT. `search`: how columns are scaled before rounding."""

    name: str
    weights: str
    weight_scales: Per
    activations: str
    activation_scales: Per
    search: str
    tolerance: Tolerance

    @property
    def calibrated(self) -> bool:
        """Whether it needs text: for a search, or for activation scales that are fixed before it runs."""
        return bool(self.search) or (self.activations != FLOAT and self.activation_scales == "tensor")

    @property
    def group(self) -> int | None:
        """Neighbors in a row of a weight that share a scale; None: a whole row."""
        return load(self.weights).group if self.weight_scales == "group" and self.weights != FLOAT else None


UNQUANTIZED = Scheme("none", FLOAT, "tensor", FLOAT, "tensor", UNSEARCHED, CLOSE)
"""The scheme of a model in which only the cache is quantized."""

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8-weight", "int8", "channel", FLOAT, "tensor", UNSEARCHED, CLOSE),
        Scheme("int4-weight", "int4", "group", FLOAT, "tensor", UNSEARCHED, _FOUR_BITS),
        Scheme("awq", "int4", "group", FLOAT, "tensor", ACTIVATION_AWARE, _FOUR_BITS),
        Scheme("smoothquant", "int8", "channel", "int8", "token", SMOOTH, _EIGHT_BITS),
        Scheme("fp8", "fp8", "channel", "fp8", "token", UNSEARCHED, _EIGHT_BITS),
    )
}
"""By name. Tolerances are those of the finest mode: a coarser one does not get wider ones."""

CACHES = {"int8": CLOSE, "fp8": _EIGHT_BITS}
"""Formats of quantized KV caches, and what each may cost by itself."""


def check_scheme(scheme: Scheme, config: ModelConfig, tp: int) -> None:
    """Raises RefusedError where a rank's rows do not divide into groups, which a group may not straddle."""
    group = scheme.group
    if group is None:
        return
    kinds = {kind.mlp for kind in config.layer_kinds}
    widths = {"hidden size": config.hidden, "attention width of a rank": config.heads * config.head_dim // tp}
    if kinds & {"gated", "plain"}:
        widths["mlp width of a rank"] = config.ffn // tp
    if "moe" in kinds:
        widths["expert width of a rank"] = config.moe_ffn // tp
    if config.shared_ffn:
        widths["shared expert width of a rank"] = config.shared_ffn // tp
    odd = [f"{name} {width}" for name, width in widths.items() if width % group]
    if odd:
        rows = [f"`{other.name}`" for other in SCHEMES.values() if other.weight_scales == "channel"]
        raise RefusedError(
            f"`{scheme.name}` rounds {group} neighbors of a row together; these do not divide: {', '.join(odd)}",
            hint=f"a smaller `--tp` may divide; {' and '.join(rows)} have one scale a row and take any width",
        )
