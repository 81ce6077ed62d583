"""Segments of a decoder on one rank. A model is

    x = embedded(sum over ranks of embed(tokens))
    for each layer:    attn and mlp, wired by `compiler.decoder.layer`
    logits = head(x), the ranks' columns side by side

A segment returns this rank's summand; the caller sums over ranks. All tensors of a segment come in one mapping, by the
names below; weights have their names in the rank file, without `layers.{i}.`. A linear layer with a `scale` has
quantized weights (`compiler.decoder.quantized`), one with an `input_scale` static activations too.

| name           | shape                   | dtype   | meaning                                                    |
|----------------|-------------------------|---------|------------------------------------------------------------|
| token_ids      | [B, S]                  | int64   |                                                            |
| positions      | [B, S]                  | int64   | position of each token in its row                          |
| key_positions  | [L]                     | int64   | 0 ... L - 1: the part of the cache in use                  |
| first          | []                      | model   | 1 on rank 0, else 0: factor of terms that are added once   |
| vocab_offset   | []                      | int64   | first row of `embed.weight` in the whole vocabulary        |
| rope.cos, .sin | [R, rotary_dim / 2]     | model   | `rotary.tables`, R above every position                    |
| rope_local.cos | [R, rotary_dim / 2]     | model   | and rope_local.sin: the same, for layers with `local` rope |
| alibi.slopes   | [heads]                 | float32 | `attention.alibi_slopes` of this rank's heads              |
| alibi.key_bias | [heads, R]              | float32 | or `attention.rounded_key_bias` of them                    |
| cache_k, _v    | [Bmax, T, kv_heads, D]  | model * | written in place; T >= L, T above every position           |
|                |                         |         | latent attention has cache_k [Bmax, T, 1, latent] alone    |
| x              | [B, S, H]               | model   | the residual stream                                        |
| qkv            | [B, S, (h + 2 kv) D]    | model   | projections of this rank's heads, where attention is split |
| mean_squares   | [B, S, 2]               | float32 | there, of q and of k over all heads of all ranks           |
| last           | [B, K]                  | int64   | indices (0 ... S - 1) in each row whose logits are wanted  |

* `attention.cache_dtype` where the layer has attn.k.cache_scale and attn.v.cache_scale, float32 [kv_heads].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.attention import Cache, Scores, store
from compiler.decoder.kernels import PLAIN, Kernels
from compiler.decoder.layer import alibi_names, table_names
from compiler.decoder.mlp import ACTIVATIONS, gated
from compiler.decoder.moe import Biases, route, scaled_inputs
from compiler.decoder.norm import normalize, normalize_by, normalize_heads, unit
from compiler.decoder.quantized import QuantizedWeight
from compiler.decoder.rotary import rotate
from compiler.model.config import LayerKind, ModelConfig
from compiler.model.parallel import head_layout
from compiler.model.roles import norm_before, qk_norms

if TYPE_CHECKING:
    from compiler.model.roles import Block

Tensors = Mapping[str, Tensor]

LATENT_EPS = 1e-6
"""Epsilon of the norms of latents: that of no config.json, but of DeepSeek's modeling code."""


def embed(config: ModelConfig, t: Tensors) -> Tensor:
    """token_ids, positions -> [B, S, H]; zero where another rank holds the token's row."""
    table = t["embed.weight"]
    local = t["token_ids"] - t["vocab_offset"]
    mine = (local >= 0) & (local < table.shape[0])
    x = F.embedding(torch.where(mine, local, 0), table) * mine[..., None]
    if config.embedding_scale != 1.0:
        # Rounded to the dtype of the model, as transformers does.
        x = x * float(torch.tensor(config.embedding_scale, dtype=x.dtype))
    if config.position == "learned":
        places = t["positions"] + config.position_offset if config.position_offset else t["positions"]
        x = x + F.embedding(places, t["position.weight"]) * t["first"]
    return x


def embedded(config: ModelConfig, x: Tensor, t: Tensors) -> Tensor:
    """Residual stream before the first layer, from the sum of `embed` over ranks."""
    return norm(config, "embed.norm", x, t) if config.embedding_norm else x


def qkv(config: ModelConfig, t: Tensors, kernels: Kernels = PLAIN) -> Tensor:
    """x -> [B, S, (heads + 2 kv_heads) * D]: q, k and v of this rank's heads, concatenated."""
    projected = _linear(kernels, t, "attn.qkv", _before(config, "attn", t), t.get("attn.qkv.bias"))
    return projected.clamp(-config.clip_qkv, config.clip_qkv) if config.clip_qkv else projected


def mean_squares(config: ModelConfig, projected: Tensor, ranks: int) -> Tensor:
    """This rank's summand of the mean squares of q and of k over all heads: `qkv` [..., width] -> float32 [..., 2].

    All ranks have equally many heads: the mean over all is the mean of the ranks' means, copies of kv heads included.
    """
    heads = head_layout(config.heads, config.kv_heads, ranks)
    q, k, _ = projected.float().split([n * config.head_dim for n in (heads.heads, heads.kv_heads, heads.kv_heads)], -1)
    return torch.stack((q.square().mean(-1), k.square().mean(-1)), -1) / ranks


def attn(config: ModelConfig, kind: LayerKind, t: Tensors, kernels: Kernels = PLAIN) -> Tensor:
    """x, or `qkv` and `mean_squares` -> summand [B, S, H]; writes keys and values into the cache."""
    if config.kv_rank:
        return _latent_attn(config, kind, t, kernels)
    positions = t["positions"]
    cache = Cache(t["cache_k"], t["cache_v"], t.get("attn.k.cache_scale"), t.get("attn.v.cache_scale"))
    kv_heads, dim = cache.k.shape[2:]

    projected = t["qkv"] if "qkv" in t else qkv(config, t, kernels)
    heads = projected.shape[-1] // dim - 2 * kv_heads
    q, k, v = projected.view(*projected.shape[:2], -1, dim).split((heads, kv_heads, kv_heads), dim=2)
    if config.qk_norm and config.qk_norm_over != "rotated":
        q, k = (
            _qk_norm(config, i, role, one, t)
            for i, (role, one) in enumerate(zip(qk_norms(config), (q, k), strict=True))
        )
    if names := table_names(config, kind):
        cos, sin = (t[name][positions] for name in names)
        q, k = rotate(config.rotary, q, cos, sin), rotate(config.rotary, k, cos, sin)
        if config.qk_norm and config.qk_norm_over == "rotated":
            q, k = unit(q, config.norm_eps), unit(k, config.norm_eps)
    elif config.temperature_floor:
        q = (q * _temperature(config, positions)).to(q.dtype)

    store(cache, positions, k, v)
    y = kernels.attend(q, cache, positions, t["key_positions"], _scores(config, kind, t))
    return _linear(kernels, t, "attn.o", y.flatten(2), _once(t, "attn.o.bias"))


def _temperature(config: ModelConfig, positions: Tensor) -> Tensor:
    """Factor of the queries at positions [B, S], float32 [B, S, 1, 1] (`ModelConfig.temperature_floor`)."""
    steps = torch.floor((positions.float() + 1.0) / config.temperature_floor)
    return (torch.log1p(steps) * config.temperature_scale + 1.0)[..., None, None]


def _latent_attn(config: ModelConfig, kind: LayerKind, t: Tensors, kernels: Kernels) -> Tensor:
    """`attn` of a model with latent attention, in its absorbed form (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).

    Scores q . W_k c are computed as (W_k^T q) . c, and values as W_v (sum of c): the heads share one key, the cached
    latent with its rotated part, whose first `kv_rank` elements are the value.
    """
    y, positions, cache = _before(config, "attn", t), t["positions"], t["cache_k"]
    if config.q_rank:
        latent = _linear(kernels, t, "attn.q_a", y, t.get("attn.q_a.bias"))
        q = _linear(kernels, t, "attn.q_b", _latent_norm(config, "attn.q_a_norm", latent, t), None)
    else:
        q = _linear(kernels, t, "attn.q_whole", y, None)
    q = q.unflatten(-1, (-1, config.nope_dim + config.rotary_dim))
    still, turning = q.split((config.nope_dim, config.rotary_dim), -1)
    kv = _linear(kernels, t, "attn.kv_a", y, t.get("attn.kv_a.bias"))
    latent, key = kv.split((config.kv_rank, config.rotary_dim), -1)
    latent = _latent_norm(config, "attn.kv_a_norm", latent, t)
    cos, sin = t["rope.cos"][positions], t["rope.sin"][positions]
    turning, key = (rotate(config.rotary, one, cos, sin) for one in (turning, key[:, :, None]))

    of_heads = t["attn.kv_b.weight"].to(y.dtype).unflatten(0, (q.shape[2], -1))
    to_k, to_v = of_heads.split((config.nope_dim, config.head_dim), 1)
    rows = torch.arange(y.shape[0], device=y.device)[:, None]
    cache.index_put_((rows, positions), torch.cat((latent[:, :, None], key), -1))
    queries = torch.cat((torch.einsum("bshd,hdr->bshr", still, to_k), turning), -1)
    mixed = kernels.attend(queries, Cache(cache, cache), positions, t["key_positions"], _scores(config, kind, t))
    heads = torch.einsum("bshr,hvr->bshv", mixed[..., : config.kv_rank], to_v)
    return _linear(kernels, t, "attn.o", heads.flatten(2), _once(t, "attn.o.bias"))


def _latent_norm(config: ModelConfig, role: str, latent: Tensor, t: Tensors) -> Tensor:
    return normalize(config.norm, latent, t[f"{role}.weight"], None, LATENT_EPS)


def _scores(config: ModelConfig, kind: LayerKind, t: Tensors) -> Scores:
    return Scores(
        window=kind.window,
        chunk=kind.chunk,
        scale=config.attention_scale,
        softcap=config.attention_softcap,
        slopes=t.get("alibi.slopes") if "alibi.slopes" in alibi_names(config) else None,
        key_bias=t.get("alibi.key_bias") if "alibi.key_bias" in alibi_names(config) else None,
        sinks=t["attn.sinks.weight"] if config.sinks else None,
    )


def mlp(config: ModelConfig, kind: LayerKind, t: Tensors, kernels: Kernels = PLAIN) -> Tensor:
    """x -> summand [B, S, H]."""
    y = _before(config, "mlp", t)
    match kind.mlp:
        case "gated":
            return _gated_mlp(config, "mlp", y, t, kernels)
        case "plain":
            inner = ACTIVATIONS[config.activation](_linear(kernels, t, "mlp.up", y, t.get("mlp.up.bias")))
            return _linear(kernels, t, "mlp.down", inner, _once(t, "mlp.down.bias"))
        case "moe":
            out = _moe(config, y, t, kernels)
            if config.shared_ffn:
                out = out + _shared(config, y, t, kernels)
            return out


def head(config: ModelConfig, t: Tensors, kernels: Kernels = PLAIN) -> Tensor:
    """x, last -> float32 logits [B, K, rows of the vocabulary on this rank], padding of the vocabulary included."""
    wanted = t["last"][..., None].expand(-1, -1, t["x"].shape[-1])
    x = norm(config, "final.norm", t["x"].gather(1, wanted), t)
    # Tied files have a head of their own where it is quantized.
    weight, quantized = t.get("head.weight", t.get("embed.weight")), _quantized(t, "head")
    assert weight is not None  # one of both is there
    bias = t.get("head.bias")
    logits = (kernels.linear(x, weight, bias) if quantized is None else kernels.head(x, quantized, bias)).float()
    if config.head == "l2_rows":
        # Scaling the product instead of the rows needs no second head in memory. Rows of padding have length 0.
        squares = weight.float().square().sum(-1)
        squares = squares if quantized is None else squares * quantized.scale.square()
        logits = logits * squares.clamp_min(1e-24).rsqrt()
    if config.logit_scale != 1.0:
        logits = logits * config.logit_scale
    return torch.tanh(logits / config.logit_softcap) * config.logit_softcap if config.logit_softcap else logits


def norm(config: ModelConfig, role: str, y: Tensor, t: Tensors) -> Tensor:
    """Norm `role` of y [..., H]."""
    return normalize(config.norm, y, t[f"{role}.weight"], t.get(f"{role}.bias"), config.norm_eps)


def _before(config: ModelConfig, block: Block, t: Tensors) -> Tensor:
    """Input of a block: x, after the norm before the block if any."""
    role = norm_before(config, block)
    return norm(config, role, t["x"], t) if role else t["x"]


def _qk_norm(config: ModelConfig, index: int, role: str, x: Tensor, t: Tensors) -> Tensor:
    """Normalized q (index 0) or k (1), [B, S, heads, D]."""
    weight = t[f"{role}.weight"]
    if config.qk_norm_over == "all_heads":
        by_head = weight.view(-1, x.shape[-1])
        return normalize_by(config.norm, x, by_head, t["mean_squares"][..., index], config.norm_eps)
    by_head = weight.view(-1, x.shape[-1]) if config.qk_norm_over == "per_head" else weight
    return normalize_heads(config.norm, x, by_head, config.norm_eps)


def _linear(kernels: Kernels, t: Tensors, name: str, x: Tensor, bias: Tensor | None) -> Tensor:
    weight = _quantized(t, name)
    return kernels.linear(x, t[f"{name}.weight"], bias) if weight is None else kernels.quantized(x, weight, bias)


def _quantized(t: Tensors, name: str) -> QuantizedWeight | None:
    """The weight `name`; None where it is not quantized."""
    scale = t.get(f"{name}.scale")
    return None if scale is None else QuantizedWeight(t[f"{name}.weight"], scale, t.get(f"{name}.input_scale"))


def _once(t: Tensors, name: str) -> Tensor | None:
    """Bias of a row-parallel layer: rank 0 adds it."""
    return t[name] * t["first"] if name in t else None


def _gated_mlp(config: ModelConfig, role: str, y: Tensor, t: Tensors, kernels: Kernels) -> Tensor:
    inner = gated(_linear(kernels, t, f"{role}.gate_up", y, t.get(f"{role}.gate_up.bias")), config.activation)
    return _linear(kernels, t, f"{role}.down", inner, _once(t, f"{role}.down.bias"))


def _moe(config: ModelConfig, y: Tensor, t: Tensors, kernels: Kernels) -> Tensor:
    tokens = y.flatten(0, 1)
    chosen, share = route(config, _router_logits(config, tokens, t, kernels), t.get("moe.correction.weight"))
    if config.router == "sigmoid_of_input":
        tokens, chosen, share = scaled_inputs(tokens, chosen, share)
    biases: Biases = (t["moe.gate_up.bias"], t["moe.down.bias"] * t["first"]) if config.expert_bias else None
    gate_up, down = _quantized(t, "moe.gate_up"), _quantized(t, "moe.down")
    if gate_up is not None and down is not None:
        out = kernels.quantized_experts(tokens, chosen, share, gate_up, down, config.activation, biases)
    else:
        floats = t["moe.gate_up.weight"], t["moe.down.weight"]
        out = kernels.experts(tokens, chosen, share, *floats, config.activation, biases)
    if config.router == "sigmoid_of_input":
        out = out.unflatten(0, (-1, config.experts_per_token)).sum(1)
    return out.view_as(y)


def _router_logits(config: ModelConfig, tokens: Tensor, t: Tensors, kernels: Kernels) -> Tensor:
    weight, bias = t["moe.router.weight"], t.get("moe.router.bias")
    if config.router_float32:
        return F.linear(tokens.float(), weight.float(), bias)
    return kernels.linear(tokens, weight, bias)


def _shared(config: ModelConfig, y: Tensor, t: Tensors, kernels: Kernels) -> Tensor:
    """Shared expert, which every token takes; with a gate, scaled by one sigmoid per token (Qwen-MoE)."""
    out = _gated_mlp(config, "shared", y, t, kernels)
    if not config.shared_expert_gate:
        return out
    return torch.sigmoid(kernels.linear(y, t["shared.router.weight"], None)) * out
