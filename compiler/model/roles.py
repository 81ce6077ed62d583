"""Canonical tensors of a decoder, with named axes.

A role names its axes; `model/parallel.py` splits axes over ranks. Transposes, fused matrices and biases need no code
of their own for sharding: a bias has the output axes of its weight and is split with them.

    role             weight                          bias
    attn.q           heads head_dim hidden           heads head_dim
    attn.o           hidden heads head_dim           hidden           row-parallel: the bias is added once
    mlp.down         hidden ffn                      hidden
    moe.gate         experts moe_ffn hidden          experts moe_ffn

Latent attention (`ModelConfig.kv_rank`), whose q may come from the hidden state itself (q_whole):

    attn.q_a         q_rank hidden                   every rank computes the whole latents
    attn.q_b         heads qk_dim q_rank             qk_dim: nope_dim without a rotation, then rotary_dim
    attn.kv_a        latent hidden                   latent: kv_rank, then rotary_dim, the key that all heads share
    attn.kv_b        heads kv_dim kv_rank            kv_dim: nope_dim of the key, then head_dim of the value
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compiler.model.config import LayerKind, ModelConfig


@dataclass(frozen=True)
class Role:
    """Axes of the weight, outermost first, and of the bias."""

    axes: tuple[str, ...]
    bias_axes: tuple[str, ...] = ()


def _role(text: str, bias: str = "") -> Role:
    return Role(tuple(text.split()), tuple(bias.split()))


ROLES: dict[str, Role] = {
    "embed": _role("vocab hidden"),
    "embed.norm": _role("hidden", "hidden"),
    "position": _role("positions hidden"),
    "attn.norm": _role("hidden", "hidden"),
    "attn.q": _role("heads head_dim hidden", "heads head_dim"),
    "attn.k": _role("kv_heads head_dim hidden", "kv_heads head_dim"),
    "attn.v": _role("kv_heads head_dim hidden", "kv_heads head_dim"),
    "attn.q_norm": _role("head_dim"),
    "attn.k_norm": _role("head_dim"),
    "attn.q_heads_norm": _role("heads head_dim", "heads head_dim"),
    "attn.k_heads_norm": _role("kv_heads head_dim", "kv_heads head_dim"),
    "attn.q_a": _role("q_rank hidden", "q_rank"),
    "attn.q_a_norm": _role("q_rank"),
    "attn.q_b": _role("heads qk_dim q_rank", "heads qk_dim"),
    "attn.q_whole": _role("heads qk_dim hidden", "heads qk_dim"),
    "attn.kv_a": _role("latent hidden", "latent"),
    "attn.kv_a_norm": _role("kv_rank"),
    "attn.kv_b": _role("heads kv_dim kv_rank", "heads kv_dim"),
    "attn.sinks": _role("heads"),
    "attn.o": _role("hidden heads head_dim", "hidden"),
    "attn.post_norm": _role("hidden", "hidden"),
    "mlp.norm": _role("hidden", "hidden"),
    "mlp.gate": _role("ffn hidden", "ffn"),
    "mlp.up": _role("ffn hidden", "ffn"),
    "mlp.down": _role("hidden ffn", "hidden"),
    "mlp.post_norm": _role("hidden", "hidden"),
    "moe.router": _role("experts hidden", "experts"),
    "moe.correction": _role("experts"),
    "moe.gate": _role("experts moe_ffn hidden", "experts moe_ffn"),
    "moe.up": _role("experts moe_ffn hidden", "experts moe_ffn"),
    "moe.down": _role("experts hidden moe_ffn", "experts hidden"),
    "shared.gate": _role("shared_ffn hidden"),
    "shared.up": _role("shared_ffn hidden"),
    "shared.down": _role("hidden shared_ffn"),
    "shared.router": _role("one hidden"),
    "final.norm": _role("hidden", "hidden"),
    "head": _role("vocab hidden", "vocab"),
}


def has_experts(role: str) -> bool:
    """Whether the role has a matrix for each expert."""
    axes = ROLES[role].axes
    return axes[0] == "experts" and len(axes) == 3


def linear_axes(role: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Axes of a linear layer's weight: (experts or nothing, output, input)."""
    axes, out = ROLES[role].axes, ROLES[role].bias_axes
    if out and axes[: len(out)] == out and not has_experts(role):
        return (), out, axes[len(out) :]
    *lead, rows, columns = axes
    return tuple(lead), (rows,), (columns,)


@dataclass(frozen=True, order=True)
class TensorId:
    """One canonical tensor: `layers.3.attn.q.weight` is TensorId("attn.q", "weight", 3).

    Parts of a quantized linear layer, besides weight and bias. A scale is the value of one unit of the number
    format, a step its inverse:

        steps, scale                of every row (see `lazy.Quantize`)
        columns, prequant           of every column: its smoothing factor, and 1 / columns for toolchains that
                                    multiply the input
        matrix_scale                of all rows; with experts, of each expert
        group_steps, group_scale    of every group of neighbors in a row: the first axis of the columns counts groups
        input_scale, input_steps    of the input, output_scale of the output (`quantization/parts.py`)
        accumulated,                of every row, or of all: from a product of integers to an integer of the output
        matrix_accumulated          (`quantization/formats/int8.py`, Static)
        cache_scale                 of keys and values in the cache: belongs to `attn.k`
        cached_scale                of every head of the cached keys (`attn.k`) or values (`attn.v`)

    Layers that a target joins share the input, so also the parts of the input and of the joined matrix.
    """

    role: str
    part: str = "weight"
    layer: int | None = None

    def __str__(self) -> str:
        place = "" if self.layer is None else f"layers.{self.layer}."
        return f"{place}{self.role}.{self.part}"

    @property
    def axes(self) -> tuple[str, ...]:
        match self.part:
            case "weight":
                return ROLES[self.role].axes
            case "bias":
                return ROLES[self.role].bias_axes
            case "columns" | "prequant":
                lead, _, columns = linear_axes(self.role)
                return lead + columns
            case "matrix_scale" | "matrix_accumulated":
                return (*linear_axes(self.role)[0], "one")
            case "group_scale" | "group_steps":
                lead, rows, columns = linear_axes(self.role)
                return lead + rows + columns[:1]
            case "input_scale" | "input_steps" | "output_scale" | "cache_scale":
                return ("one",)
            case "cached_scale":
                return linear_axes(self.role)[1][:1]
            case _:
                lead, rows, _ = linear_axes(self.role)
                return lead + rows


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """Global size of every named axis."""
    return {
        "vocab": config.vocab,
        "hidden": config.hidden,
        "positions": config.max_positions + config.position_offset,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "ffn": config.ffn,
        "experts": config.experts,
        "moe_ffn": config.moe_ffn,
        "shared_ffn": config.shared_ffn,
        "q_rank": config.q_rank,
        "kv_rank": config.kv_rank,
        "latent": config.kv_rank + config.rotary_dim,
        "qk_dim": config.nope_dim + config.rotary_dim,
        "kv_dim": config.nope_dim + config.head_dim,
        "one": 1,
    }


Block = Literal["attn", "mlp"]


def norm_before(config: ModelConfig, block: Block) -> str:
    """Role of the norm whose output a block reads; "" where it reads the residual stream itself."""
    if config.norms == "after":
        return ""
    shared = config.parallel_residual and not config.parallel_mlp_norm
    return "attn.norm" if shared else f"{block}.norm"


def norm_after(config: ModelConfig, block: Block) -> str:
    """Role of the norm of a block's sum over ranks; "" where there is none."""
    return "" if config.norms == "before" else f"{block}.post_norm"


def qk_norms(config: ModelConfig) -> tuple[str, str]:
    """Roles of the norms of q and k, where the model has them and they have weights."""
    if config.qk_norm_over == "head_dim":
        return "attn.q_norm", "attn.k_norm"
    return "attn.q_heads_norm", "attn.k_heads_norm"


def layer_roles(config: ModelConfig, kind: LayerKind) -> list[tuple[str, str]]:
    """(role, part) of every tensor of a layer of this kind, in the order of computation."""
    weight, both = ("weight",), ("weight", "bias")
    norm = both if config.norm == "layer" and config.norm_bias else weight
    out = both if config.out_bias else weight
    mlp = both if config.mlp_bias else weight
    parts: list[tuple[str, tuple[str, ...]]] = [(norm_before(config, "attn"), norm), *_projections(config)]
    if config.sinks:
        parts += [("attn.sinks", weight)]
    parts += [("attn.o", out), (norm_after(config, "attn"), norm), (norm_before(config, "mlp"), norm)]
    match kind.mlp:
        case "gated":
            parts += [("mlp.gate", mlp), ("mlp.up", mlp), ("mlp.down", mlp)]
        case "plain":
            parts += [("mlp.up", mlp), ("mlp.down", mlp)]
        case "moe":
            experts = both if config.expert_bias else weight
            parts += [("moe.router", both if config.router_bias else weight)]
            if config.router == "corrected_sigmoid":
                parts += [("moe.correction", weight)]
            parts += [(role, experts) for role in ("moe.gate", "moe.up", "moe.down")]
            if config.shared_ffn:
                parts += [(role, weight) for role in ("shared.gate", "shared.up", "shared.down")]
            if config.shared_expert_gate:
                parts += [("shared.router", weight)]
    parts += [(norm_after(config, "mlp"), norm)]
    return list(dict.fromkeys((role, part) for role, names in parts if role for part in names))


def _projections(config: ModelConfig) -> list[tuple[str, tuple[str, ...]]]:
    """Projections of attention with their parts: q, k and v, or latent ones."""
    weight = ("weight",)
    qkv = ("weight", "bias") if config.qkv_bias else weight
    if config.kv_rank:
        q = [("attn.q_a", qkv), ("attn.q_a_norm", weight), ("attn.q_b", weight)]
        kv = [("attn.kv_a", qkv), ("attn.kv_a_norm", weight), ("attn.kv_b", weight)]
        return [*(q if config.q_rank else [("attn.q_whole", weight)]), *kv]
    norms = qk_norms(config) if config.qk_norm and config.qk_norm_over != "rotated" else ()
    return [("attn.q", qkv), ("attn.k", qkv), ("attn.v", qkv), *((role, weight) for role in norms)]


def model_tensors(config: ModelConfig) -> list[TensorId]:
    """Canonical tensors of the model, in the order of computation. A tied head is not among them."""
    tensors = [TensorId("embed")]
    if config.position == "learned":
        tensors.append(TensorId("position"))
    norm_bias = config.norm == "layer" and config.norm_bias
    if config.embedding_norm:
        tensors += [TensorId("embed.norm", part) for part in ("weight", "bias") if part == "weight" or norm_bias]
    for layer, kind in enumerate(config.layer_kinds):
        tensors += [TensorId(role, part, layer) for role, part in layer_roles(config, kind)]
    tensors.append(TensorId("final.norm"))
    if norm_bias:
        tensors.append(TensorId("final.norm", "bias"))
    if not config.tied:
        tensors.append(TensorId("head"))
    if config.head_bias:
        tensors.append(TensorId("head", "bias"))
    return tensors


def shape_of(tensor: TensorId, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[axis] for axis in tensor.axes)
