"""Groups of linear layers that share an input and so a smoothing scale s; the layer before them absorbs 1 / s.

Derived from the traits:

| layer             | columns times s (`into`)          | followers     | divided       | axes of s       |
|-------------------|-----------------------------------|---------------|---------------|-----------------|
| all               | attn.q attn.k attn.v              |               | attn.norm     | hidden          |
| gated, plain mlp  | mlp.gate mlp.up                   |               | mlp.norm      | hidden          |
| parallel residual | both of the above, one group      |               | attn.norm     | hidden          |
| moe               | moe.gate moe.up                   | moe.router    | mlp.norm      | hidden          |
|                   | shared.gate shared.up             | shared.router |               |                 |
| norms after       | as above, two groups              |               | (at run time) | hidden          |
| all               | attn.o                            |               | attn.v        | kv_heads dim    |
| clipped values    | attn.o                            |               | (at run time) | heads head_dim  |
| latent attention  | attn.q_a attn.q_whole attn.kv_a   |               | attn.norm     | hidden          |
|                   | attn.q_b                          |               | attn.q_a_norm | q_rank          |
|                   | attn.o                            |               | (at run time) | heads head_dim  |
| gated; relu       | mlp.down                          |               | mlp.up        | ffn             |
| plain, not relu   | mlp.down                          |               | (at run time) | ffn             |
| moe               | moe.down                          |               | moe.up        | experts moe_ffn |
| shared expert     | shared.down                       |               | shared.up     | shared_ffn      |

attn.o reads weighted sums of values, so dividing the rows of attn.v divides its input; the query heads of one kv head
then share s. A gated mlp multiplies by `up`, so dividing its rows divides the input of `down`; relu commutes with a
positive factor, gelu and clipped values do not, and the inputs of `down` and of `attn.o` are then divided at run time.

Experts share one norm, which cannot absorb a scale per expert: so one s serves all experts of a layer, from the largest
column among them. The router, which is not quantized and not part of the search for s, is multiplied by s in floating
point: its logits do not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compiler.model.config import LayerKind, ModelConfig
from compiler.model.roles import layer_roles, linear_axes, norm_before
from compiler.quantization.format import Values
from compiler.quantization.smooth import divide_norm, smoothing_scales


@dataclass(frozen=True)
class Smooth:
    """Layers with one s: it is computed from `into`, multiplies `into` and `followers`, and divides `divides`.

    `divides` "": no layer before them can absorb 1 / s; the input is divided at run time.
    """

    into: tuple[str, ...]
    divides: str
    followers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """First role of `into`; a role is in at most one group."""
        return self.into[0]


@dataclass(frozen=True)
class Maxima:
    """Maxima of one linear layer: `inputs` over the calibration text, `columns` of its weight, both float32 [lead, in].

    One dimension per axis of `linear_axes`.
    """

    inputs: Values
    columns: Values


@dataclass(frozen=True)
class Factors:
    """Smoothing of one tensor: W / divisor * columns. `divisor` [lead, out], `columns` [lead, in]; None: 1.

    One dimension per axis. `columns` has no experts' axis where one s serves all experts. A bias has the divisor of its
    weight.
    """

    divisor: Values | None = None
    columns: Values | None = None


def quantized_roles(config: ModelConfig, kind: LayerKind) -> tuple[str, ...]:
    """Linear layers that schemes quantize: all but routers, whose choices depend on small differences, and the matrix
    from latents to keys and values, which latent attention multiplies from both sides.
    """
    roles = dict.fromkeys(role for role, _ in layer_roles(config, kind))
    return tuple(role for role in roles if not role.endswith(_FLOATING))


_FLOATING = ("router", "norm", "correction", "sinks", "kv_b")


def groups(config: ModelConfig, kind: LayerKind) -> tuple[Smooth, ...]:
    """Groups of one layer, in the order of computation."""
    present = dict.fromkeys(role for role, _ in layer_roles(config, kind))

    def existing(*roles: str) -> tuple[str, ...]:
        return tuple(role for role in roles if role in present)

    attention = existing("attn.q", "attn.k", "attn.v", "attn.q_a", "attn.q_whole", "attn.kv_a")
    mlp = existing("mlp.gate", "mlp.up", "moe.gate", "moe.up", "shared.gate", "shared.up")
    routers = existing("moe.router", "shared.router")
    attn_norm, mlp_norm = norm_before(config, "attn"), norm_before(config, "mlp")
    if attn_norm and attn_norm == mlp_norm:
        found = [Smooth((*attention, *mlp), attn_norm, routers)]
    else:
        found = [Smooth(attention, attn_norm), Smooth(mlp, mlp_norm, routers if mlp_norm else ())]
    if "attn.q_b" in present:
        found.append(Smooth(("attn.q_b",), "attn.q_a_norm"))
    found.append(Smooth(("attn.o",), "attn.v" if "attn.v" in present and not config.clip_qkv else ""))
    linear_in_up = config.activation == "relu" or (kind.mlp != "plain" and config.activation != "clamped_swiglu")
    for down, up in (("mlp.down", "mlp.up"), ("moe.down", "moe.up"), ("shared.down", "shared.up")):
        if down in present:
            found.append(Smooth((down,), up if linear_in_up else ""))
    return tuple(found)


def folded(found: Sequence[Smooth]) -> tuple[Smooth, ...]:
    """Groups that cost nothing at run time: a layer before them absorbs 1 / s."""
    return tuple(group for group in found if group.divides)


def explicit(found: Sequence[Smooth]) -> tuple[Smooth, ...]:
    """All groups, with only norms divided: for toolchains whose kernels divide the inputs of `o` and `down`."""
    return tuple(group if group.divides.endswith("norm") else replace(group, divides="") for group in found)


def at_run_time(found: Sequence[Smooth]) -> tuple[Smooth, ...]:
    """All groups, with nothing divided: for toolchains whose kernels multiply every input. Routers see x itself."""
    return tuple(replace(group, divides="", followers=()) for group in found)


def layer_scales(
    config: ModelConfig, found: Sequence[Smooth], maxima: Mapping[str, Maxima], alpha: float
) -> dict[str, Values]:
    """s of the groups of one layer, by the group's name; `maxima` by role. Axes: the table above; all axes of the input
    where it is divided at run time.

    Raises UsageError (alpha).
    """
    scales = {}
    for group in found:
        inputs = np.maximum.reduce([_shared(group, maxima[role].inputs, config) for role in group.into])
        columns = np.maximum.reduce([_shared(group, maxima[role].columns, config) for role in group.into])
        scales[group.name] = smoothing_scales(inputs, columns, alpha)
    return scales


def layer_means(config: ModelConfig, found: Sequence[Smooth], means: Mapping[str, Values]) -> dict[str, Values]:
    """Mean |x| on the axes of each group's s, by the group's name, up to a factor common to all channels.

    `means` [lead, in] by role, over all tokens of the text.
    """
    return {
        group.name: np.maximum.reduce([_shared(group, means[role], config, np.add) for role in group.into])
        for group in found
    }


def layer_factors(
    config: ModelConfig, found: Sequence[Smooth], scales: Mapping[str, Values]
) -> tuple[dict[str, Factors], dict[str, Values]]:
    """Factors of the tensors of a layer that smoothing changes, by role; and divisors of inputs at run time, by the
    role that reads them.
    """
    divisors: dict[str, Values] = {}
    columns: dict[str, Values] = {}
    smoothers: dict[str, Values] = {}
    for group in found:
        s = scales[group.name]
        for role in (*group.into, *group.followers):
            columns[role] = np.repeat(s, config.heads // config.kv_heads, 0) if group.divides == "attn.v" else s
        if group.divides:
            divisors[group.divides] = s
        else:
            smoothers |= dict.fromkeys(group.into, s)
    return {role: Factors(divisors.get(role), columns.get(role)) for role in divisors | columns}, smoothers


def apply(config: ModelConfig, role: str, part: str, values: Values, factors: Factors) -> Values:
    """Smooth a whole canonical tensor, one dimension per axis of its role."""
    if part == "bias":
        return values if factors.divisor is None else values / factors.divisor
    if role.endswith("norm"):
        assert factors.divisor is not None
        return divide_norm(config.norm, values, factors.divisor)
    lead, out, inner = (len(axes) for axes in linear_axes(role))
    if factors.divisor is not None:
        values = values / factors.divisor.reshape(*factors.divisor.shape, *[1] * inner)
    if factors.columns is not None:
        experts = factors.columns.shape[: factors.columns.ndim - inner]
        between = [1] * (out if experts else lead + out)
        values = values * factors.columns.reshape(*experts, *between, *factors.columns.shape[len(experts) :])
    return values


def _shared(group: Smooth, values: Values, config: ModelConfig, over: np.ufunc = np.maximum) -> Values:
    """Reduce values [lead, in] of one of the group's layers to the axes of its s."""
    if group.divides == "attn.v":
        return np.asarray(over.reduce(values.reshape(config.kv_heads, -1, config.head_dim), 1))
    if group.divides.endswith("norm"):
        return np.asarray(over.reduce(values.reshape(-1, values.shape[-1]), 0))
    return values
