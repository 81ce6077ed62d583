"""Layout of the decoder's rank files, from canonical tensors.

| file tensor                        | rows on rank r                    | from                     |
|------------------------------------|-----------------------------------|--------------------------|
| embed.weight                       | vocab / tp (zeros behind)         | embed                    |
| layers.i.attn.qkv.weight / .bias   | [q_r ; k_r ; v_r]                 | attn.q, attn.k, attn.v   |
| layers.i.attn.o.weight             | hidden x (heads / tp x head_dim)  | attn.o                   |
| layers.i.mlp.gate_up.weight        | [gate_r ; up_r]                   | mlp.gate, mlp.up         |
| layers.i.moe.gate_up.weight        | experts x [gate_r ; up_r]         | moe.gate, moe.up         |
| head.weight                        | vocab / tp                        | head; see below          |
| everything else                    | whole, or its one split axis / tp | the role of that name    |

A tied head is the embedding and absent, but for a quantized one: then both are stored.

Fusing q, k, v and gate, up makes one matrix product of several. Biases of row-parallel layers are whole on every rank;
the first rank adds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compiler.decoder.products import Products, different
from compiler.decoder.rankfile.cache_scales import with_cache_scales
from compiler.decoder.rankfile.quantized import quantize_layers, stored_weight
from compiler.model.config import ModelConfig
from compiler.model.layout import Layout, join_rows, to_rank_plans
from compiler.model.lazy import Lazy, RankPlan
from compiler.model.parallel import SPLIT_AXES, spread
from compiler.model.roles import TensorId, axis_sizes, model_tensors
from compiler.quantization.schemes import FLOAT

FUSED = {
    "attn.qkv": ("attn.q", "attn.k", "attn.v"),
    "mlp.gate_up": ("mlp.gate", "mlp.up"),
    "moe.gate_up": ("moe.gate", "moe.up"),
    "shared.gate_up": ("shared.gate", "shared.up"),
}
"""File tensor -> roles whose rows it joins."""
KEPT = {"moe.correction": "F32"}
"""Roles that keep their dtype, whatever that of the files: a choice of experts hangs on their last bits."""
_PART_OF = {role: name for name, roles in FUSED.items() for role in roles}


def layouts(config: ModelConfig, tp: int, head: str = FLOAT) -> list[Layout]:
    """Every file tensor of a rank, in the order of the file: that of computation. `head`: product of the head."""
    config = with_own_head(config, head)
    done: dict[str, Layout] = {}
    sizes = _rank_sizes(config, tp)
    for tensor in model_tensors(config):
        roles = FUSED.get(_PART_OF.get(tensor.role, ""), (tensor.role,))
        if tensor.role == "mlp.up" and config.layer_kinds[tensor.layer or 0].mlp != "gated":
            roles = ("mlp.up",)
        name = _PART_OF[tensor.role] if len(roles) > 1 else tensor.role
        inputs = tuple(TensorId(role, tensor.part, tensor.layer) for role in roles)
        full = str(TensorId(name, tensor.part, tensor.layer))
        if full not in done:
            programs = tuple(spread(t.axes, config, tp) for t in inputs)
            done[full] = Layout(full, inputs, programs, join_rows(inputs, sizes), KEPT.get(tensor.role))
    return list(done.values())


def _rank_sizes(config: ModelConfig, tp: int) -> dict[str, int]:
    """Elements of every axis on one rank."""
    return axis_sizes(config) | {axis: shard_size(axis, config, tp) for axis in SPLIT_AXES}


def shard_size(axis: str, config: ModelConfig, tp: int) -> int:
    """Elements of a split axis on one rank."""
    size = axis_sizes(config)[axis]
    return max(size // tp, 1) if axis == "kv_heads" else -(-size // tp)


def with_own_head(config: ModelConfig, head: str) -> ModelConfig:
    """The model as its files have it: a quantized head is not tied. `head`: its product."""
    return config if head == FLOAT else replace(config, tied=False)


def rank_plans(
    config: ModelConfig,
    tp: int,
    tensors: Mapping[TensorId, Lazy],
    dtype: str,
    products: Products = FLOAT,
    head: str = FLOAT,
) -> list[RankPlan]:
    """File of every rank. `dtype`: of the files, by its safetensors name (`BF16`). `head`: product of the head.

    Linear layers whose steps are among `tensors` are quantized for `products` (`quantized.py`); so is the cache, where
    its scales are among them (`cache_scales.py`).
    """
    found = layouts(config, tp, head)
    if head != FLOAT and config.tied:
        tensors = {**tensors, TensorId("head"): tensors[TensorId("embed")]}
    plans = to_rank_plans(found, tensors, dtype, rank_file)
    if kinds := [stored_weight(product) for product in sorted({*different(products), head} - {FLOAT})]:
        plans = quantize_layers(plans, found, config, tensors, _rank_sizes(config, tp), kinds)
    return with_cache_scales(plans, config, tensors)


def rank_file(rank: int) -> str:
    return f"weights/rank{rank}.safetensors"
