"""Layout of vLLM's shards: the files `model-rank-{r}-part-0.safetensors` that `load_format=sharded_state` reads.

| file tensor, by Llama's names                   | of rank r                              | from                     |
|-------------------------------------------------|----------------------------------------|--------------------------|
| model.embed_tokens.weight                       | rows, zeros up to a multiple of 64     | embed                    |
| model.layers.i.self_attn.qkv_proj.weight, .bias | [q_r ; k_r ; v_r]                      | attn.q, attn.k, attn.v   |
| model.layers.i.self_attn.o_proj.weight          | columns of heads / tp                  | attn.o                   |
| model.layers.i.mlp.gate_up_proj.weight          | [gate_r ; up_r]                        | mlp.gate, mlp.up         |
| model.layers.i.mlp.down_proj.weight             | columns of ffn / tp                    | mlp.down                 |
| ...block_sparse_moe.experts.w13_weight          | per expert [gate_r ; up_r]             | moe.gate, moe.up         |
| ...self_attn.attn._{k,prob,q,v}_scale           | 1.0 in float32                         | nothing                  |
| ...self_attn.attn.{k,q,v}_{scale,zero_point}    | 1.0, 0.0 in float32; quantized models  | nothing                  |
| lm_head.weight                                  | rows as of the embedding               | head; embed where tied   |
| biases of row-parallel layers, norms, routers   | whole; of experts: zeros for r > 0     |                          |

A tied matrix stands once, under the smaller of its two names. Source: `save_sharded_state` of vLLM 0.32.0, compared bit
for bit (tests/targets/vllm); `model_executor/model_loader/sharded_state_loader.py` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.decoder.rankfile.quantized import quantize_layers
from compiler.model.layout import Layout, join_rows, to_rank_plans
from compiler.model.lazy import Lazy, RankPlan
from compiler.model.ops import OnFirst, Op, Pad, Program, Rearrange, Replicate, Shard, Stack
from compiler.model.parallel import check_parallel, padded, spread
from compiler.model.roles import TensorId, axis_sizes, model_tensors
from compiler.targets.vllm.architectures import ShardNames, row_for
from compiler.targets.vllm.compressed import as_stored, stored
from compiler.targets.vllm.copies import copies, file_plans
from compiler.targets.vllm.gathered import gathered
from compiler.targets.vllm.options import PLAIN, VllmOptions
from compiler.targets.vllm.version import version_of

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig

VOCAB_MULTIPLE = 64
"""Rows of the embedding and of the head are padded to this multiple, all ranks together."""
SCALES = ("k", "prob", "q", "v")
"""Scales of attention that the loader demands of each layer; 1.0 unless a cache of fewer bits is calibrated."""
SCHEME_SCALES = ("k", "q", "v")
"""Scales and zero points that a layer's attention has besides where a model is of compressed-tensors."""
FUSED = {
    "attn.qkv": ("attn.q", "attn.k", "attn.v"),
    "attn.qkv_a": ("attn.q_a", "attn.kv_a"),
    "mlp.gate_up": ("mlp.gate", "mlp.up"),
    "moe.gate_up": ("moe.gate", "moe.up"),
    "shared.gate_up": ("shared.gate", "shared.up"),
}
"""File role -> roles whose rows it joins, where the architecture's row has a name for it."""
_KEPT = {"moe.correction": "F32"}
"""Roles with a dtype of their own in the model class."""


def layouts(config: ModelConfig, tp: int, options: VllmOptions = PLAIN) -> list[Layout]:
    """All file tensors of a rank with inputs, in the order of computation.

    Raises:
        RefusedError: no row for the architecture, or a version of vLLM without it.
        ParallelError: tp does not divide the model.
    """
    if copies(config, options):
        return []
    row = row_for(config, version_of(options))
    check_parallel(config, tp)
    sizes = _rank_sizes(config, tp)
    done: dict[str, Layout] = {}
    for tensor in _tensors(config, row):
        role, inputs = _inputs(tensor, row, config)
        name = row.name(role, tensor.part, tensor.layer, tied=config.tied)
        if name in done:
            continue
        sources = tuple(
            TensorId("embed") if config.tied and each.role == "head" and each.part == "weight" else each
            for each in inputs
        )
        if role in row.gathered:
            done[name] = gathered(name, role, sources, config, tp)
            continue
        programs = tuple(_spread(each, config, tp, row) for each in inputs)
        of_rank = axis_sizes(config) if role in row.whole else sizes
        join = _join(role, inputs, of_rank, row, config)
        done[name] = Layout(name, sources, programs, join, dtype=_KEPT.get(tensor.role))
    return list(done.values())


def rank_plans(
    config: ModelConfig, tp: int, tensors: Mapping[TensorId, Lazy], dtype: str, options: VllmOptions = PLAIN
) -> list[RankPlan]:
    """File of each rank, or those of the checkpoint itself. `dtype`: by its safetensors name (`BF16`)."""
    if copies(config, options):
        return file_plans(tensors)
    found = layouts(config, tp, options)
    plans = to_rank_plans(found, tensors, dtype, rank_file)
    if options.scheme:
        plans = quantize_layers(plans, found, config, tensors, _rank_sizes(config, tp), [stored(options.scheme)])
    fixed = model_constants(config, options)
    scalars = [(name, Lazy(shape, "F32", "F32", (), "plus_one" if one else "")) for name, (shape, one) in fixed.items()]
    named = [[each for one in plan.tensors for each in as_stored(options.scheme, dtype, *one)] for plan in plans]
    return [replace(plan, tensors=(*of_rank, *scalars)) for plan, of_rank in zip(plans, named, strict=True)]


def model_constants(config: ModelConfig, options: VllmOptions = PLAIN) -> dict[str, tuple[tuple[int, ...], int]]:
    """`constants` of all layers; {} for a checkpoint as it is. Raises RefusedError."""
    if copies(config, options):
        return {}
    row, scheme = row_for(config, version_of(options)), options.scheme
    return {name: each for layer in range(config.layers) for name, each in constants(row, layer, scheme).items()}


def constants(row: ShardNames, layer: int, scheme: str) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and value (1 or 0) of the float32 tensors of a layer's attention that come from no checkpoint."""
    place = row.scales(layer)
    found: dict[str, tuple[tuple[int, ...], int]] = {f"{place}_{name}_scale": ((), 1) for name in SCALES}
    if scheme:
        found |= {f"{place}{name}_scale": ((1,), 1) for name in SCHEME_SCALES}
        found |= {f"{place}{name}_zero_point": ((1,), 0) for name in SCHEME_SCALES}
    return found


def rank_file(rank: int) -> str:
    return f"model-rank-{rank}-part-0.safetensors"


def _tensors(config: ModelConfig, row: ShardNames) -> list[TensorId]:
    """Canonical tensors, the tied head included if the model class has one."""
    found = model_tensors(config)
    return [*found, TensorId("head")] if config.tied and row.has("head") else found


def _inputs(tensor: TensorId, row: ShardNames, config: ModelConfig) -> tuple[str, tuple[TensorId, ...]]:
    """File role of a tensor, and all tensors of that role in the order of their rows."""
    plain = tensor.role == "mlp.up" and config.layer_kinds[tensor.layer or 0].mlp == "plain"
    for role, roles in FUSED.items() if not plain else ():
        if tensor.role in roles and row.has(role) and (role != "attn.qkv_a" or config.q_rank):
            return role, tuple(TensorId(each, tensor.part, tensor.layer) for each in roles)
    return tensor.role, (tensor,)


def _spread(tensor: TensorId, config: ModelConfig, tp: int, row: ShardNames) -> Program:
    """Program that makes one shard for each rank."""
    if "vocab" in tensor.axes:
        axis = tensor.axes.index("vocab")
        return (Pad(axis, config.vocab, padded(padded(config.vocab, VOCAB_MULTIPLE), tp)), Shard(axis, tp))
    if (tensor.role, tensor.part) == ("moe.down", "bias"):
        return (OnFirst(tp),)
    program: Program = (Replicate(tp),) if tensor.role in row.whole else spread(tensor.axes, config, tp)
    if row.turned and tensor.role in ("attn.q", "attn.k") and tensor.part == "weight":
        half = (("pair", config.head_dim // 2), ("two", 2))
        return (Rearrange("head (pair two) in -> head (two pair) in", half), *program)
    return program


def _join(
    role: str, inputs: tuple[TensorId, ...], sizes: Mapping[str, int], row: ShardNames, config: ModelConfig
) -> Program:
    """Program that joins the shards of one rank."""
    if role in row.matrices:
        return ()
    joined = join_rows(inputs, sizes)
    if not row.mixes(role, config):
        return joined
    # Gate and up of a row, or q, k and v of a head, follow one another: as the checkpoint has them.
    lead = "experts " if inputs[0].axes[0] == "experts" else ""
    rest = " in" if inputs[0].part == "weight" else ""
    rows = "row" if lead else "(row d)"
    before = f"role {lead}{rows}{rest}"
    named = (
        ("role", len(inputs)),
        ("row", sizes["moe_ffn" if lead else "heads"]),
        ("d", 1 if lead else sizes["head_dim"]),
    )
    after = f"{lead}(row role){rest}" if lead else f"(row role d){rest}"
    mixed: Op = Rearrange(f"{before} -> {after}", named)
    return (joined[0], Stack(len(inputs)), mixed)


def _rank_sizes(config: ModelConfig, tp: int) -> dict[str, int]:
    """Size of every axis on one rank."""
    sizes = axis_sizes(config)
    split = {name: sizes[name] // tp for name in ("heads", "ffn", "moe_ffn", "shared_ffn")}
    vocab = padded(padded(config.vocab, VOCAB_MULTIPLE), tp) // tp
    return sizes | split | {"kv_heads": max(sizes["kv_heads"] // tp, 1), "vocab": vocab}
