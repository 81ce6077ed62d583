"""Quantization schemes: formats of weights and activations, their scales, and tolerances.

Data only: a scheme names formats of `compiler.quantization.formats`; a target lists the schemes that it runs. To add a
scheme, add a value to SCHEMES or CACHES. The command line derives its choices from them: this file imports nothing
heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from compiler.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.model.config import ModelConfig
    from compiler.model.roles import Block

FLOAT = "float"
"""Name in place of a format: not rounded."""
Per = Literal["tensor", "channel", "group", "token"]
PARTS: tuple[Block, Block] = ("attn", "mlp")
"""Parts of a layer, in the order of `Scheme.parts`."""

UNSEARCHED, SMOOTH, ACTIVATION_AWARE, FEEDBACK = "", "smooth", "awq", "gptq"
"""Searches before rounding: none, SmoothQuant's (`smooth.py`) and AWQ's (`awq.py`) for scales of columns, GPTQ's
(`feedback.py`) for weights.
"""
USUAL_GROUP = 128
COLUMNS = (SMOOTH, ACTIVATION_AWARE)
"""Searches for scales of columns."""
ALPHA_OPTION = "--smoothquant-alpha"
"""Option of the command line for SmoothQuant's alpha."""


@dataclass(frozen=True)
class Tolerance:
    """Limits of the numerics gate, against the unquantized model.

    `perplexity`: largest increase on held-out text, as a share; `kl`: largest mean divergence of the next token, in
    nats; `stream`: largest error of any block, as a share of the residual stream that it is added to.

    `distance`, `channel`: largest distance of a block, and of one of its output channels, from what the scheme itself
    computes, in errors of the scheme. Correct files repeat the scheme where weights alone are rounded. Rounded
    activations move to the next step where sums in another order or the dtype of a factor move them; the defaults are
    for integers. `python -m benchmarks.damage` measures both on correct and on damaged files.
    """

    perplexity: float
    kl: float
    stream: float
    distance: float = 0.16
    channel: float = 0.5


CLOSE = Tolerance(perplexity=0.005, kl=0.005, stream=0.05, distance=0.03, channel=0.15)
_EIGHT_BITS = Tolerance(perplexity=0.02, kl=0.02, stream=0.1)
_FOUR_BITS = Tolerance(perplexity=0.08, kl=0.08, stream=0.3, distance=0.03, channel=0.15)
_FP8 = replace(_EIGHT_BITS, distance=0.08, channel=0.15)


@dataclass(frozen=True)
class Scheme:
    """Quantization scheme. `weights`, `activations`: formats, or FLOAT. `search`: that before rounding. `size`:
    neighbors in a row of a weight that share a scale, where these have a scale per group. `parts`: schemes of attention
    and of the mlp of every layer, for a mixture of schemes (AUTO) whose parts were chosen.
    """

    name: str
    weights: str
    weight_scales: Per
    activations: str
    activation_scales: Per
    search: str
    tolerance: Tolerance
    size: int = USUAL_GROUP
    parts: tuple[tuple[Scheme, Scheme], ...] = ()

    def at(self, layer: int, role: str) -> Scheme:
        """Scheme of the linear layer `role` of a layer."""
        return self.parts[layer][PARTS.index(part_of(role))] if self.parts else self

    @property
    def feedback(self) -> Scheme | None:
        """Scheme of the parts that are rounded with feedback; None: there are none."""
        return next((one for layer in self.parts or ((self,),) for one in layer if one.rounds_with_feedback), None)

    @property
    def rounds_with_feedback(self) -> bool:
        """Whether weights are rounded with feedback of their errors."""
        return self.search == FEEDBACK and self.weights != FLOAT

    @property
    def calibrated(self) -> bool:
        """Whether it needs a calibration text, for a search or for static activations."""
        return bool(self.search) or (self.activations != FLOAT and self.activation_scales == "tensor")

    @property
    def group(self) -> int | None:
        """Neighbors in a row of a weight that share a scale; None: a whole row."""
        return self.size if self.weight_scales == "group" and self.weights != FLOAT else None


def part_of(role: str) -> Block:
    """Part of a layer that the linear layer `role` belongs to."""
    return "attn" if role.startswith("attn.") else "mlp"


UNQUANTIZED = Scheme("none", FLOAT, "tensor", FLOAT, "tensor", UNSEARCHED, CLOSE)
"""Scheme of a model in which only the cache is quantized."""

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8-weight", "int8", "channel", FLOAT, "tensor", UNSEARCHED, CLOSE),
        Scheme("int4-weight", "int4", "group", FLOAT, "tensor", UNSEARCHED, _FOUR_BITS),
        Scheme("gptq", "int4", "group", FLOAT, "tensor", FEEDBACK, _FOUR_BITS),
        Scheme("awq", "int4", "group", FLOAT, "tensor", ACTIVATION_AWARE, _FOUR_BITS),
        Scheme("smoothquant", "int8", "channel", "int8", "token", SMOOTH, _EIGHT_BITS),
        Scheme("fp8", "fp8", "channel", "fp8", "token", UNSEARCHED, _FP8),
    )
}
"""Schemes by name. Tolerances are those of the finest scales; coarser ones do not widen them."""

AUTO = Scheme("auto", FLOAT, "tensor", FLOAT, "tensor", FEEDBACK, replace(_FOUR_BITS, perplexity=0.01))
"""Mixture of schemes, a part of a layer each, by their measured costs (`numerics/mixture`). `parts` are empty before
these are measured: all is in floating point.
"""

MIXED = ("int8-weight", "gptq")
"""Schemes of the parts of such a mixture: weights alone, so that no part changes the inputs of another."""

CACHES = {
    "int8": replace(CLOSE, distance=0.05, channel=0.1),
    "fp8": replace(_EIGHT_BITS, distance=0.05, channel=0.1),
}
"""Formats of quantized KV caches, and the tolerance of each."""


HEADS: dict[str, Scheme] = {"int8": SCHEMES["int8-weight"]}
"""Formats of a quantized head, and how its matrix is rounded: weights alone, a scale for each row, which is a token."""


def fitted(scheme: Scheme, config: ModelConfig, tp: int, sizes: Sequence[int]) -> Scheme:
    """The scheme with groups of the first of `sizes` that divides a rank's rows; as it is where none does."""
    found = next((size for size in sizes if not _undivided(config, tp, size)), None)
    return scheme if found is None or scheme.group is None else replace(scheme, size=found)


def check_scheme(scheme: Scheme, config: ModelConfig, tp: int, sizes: Sequence[int] = ()) -> None:
    """Check that groups divide a rank's rows. Raises RefusedError where a group would straddle two ranks. `sizes`:
    those of groups that the target takes.
    """
    if scheme.group is None or not (odd := _undivided(config, tp, scheme.group)):
        return
    rows = [f"`{other.name}`" for other in SCHEMES.values() if other.weight_scales == "channel"]
    fewer = [one for one in range(tp - 1, 0, -1) if tp % one == 0]
    fits = next((one for one in fewer if any(not _undivided(config, one, size) for size in sizes)), None)
    smaller = f"`--tp {fits}` divides; " if fits else ""
    others = " or ".join(map(str, sorted({scheme.group, *sizes}, reverse=True)))
    raise RefusedError(
        f"`{scheme.name}` needs widths that divide into groups of {others}; found "
        f"{', '.join(f'{name} {width}' for name, width in odd.items())}",
        hint=f"{smaller}{' and '.join(rows)} have one scale per row and take any width",
    )


def _undivided(config: ModelConfig, tp: int, group: int) -> dict[str, int]:
    """Widths that groups do not divide, by name."""
    kinds = {kind.mlp for kind in config.layer_kinds}
    widths = {"hidden size": config.hidden, "attention width of a rank": config.heads * config.head_dim // tp}
    if kinds & {"gated", "plain"}:
        widths["mlp width of a rank"] = config.ffn // tp
    if "moe" in kinds:
        widths["expert width of a rank"] = config.moe_ffn // tp
    if config.shared_ffn:
        widths["shared expert width of a rank"] = config.shared_ffn // tp
    return {name: width for name, width in widths.items() if width % group}
