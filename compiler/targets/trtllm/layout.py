"""Layout of the rank files of a TensorRT-LLM checkpoint. Every linear weight is [out, in].

| file tensor (`transformer.` before all but lm_head) | of rank r                      | from                    |
|-----------------------------------------------------|--------------------------------|-------------------------|
| vocab_embedding.weight                              | whole, or rows of vocab / tp   | embed                   |
| layers.i.attention.qkv.weight / .bias               | [q_r ; k_r ; v_r]              | attn.q, attn.k, attn.v  |
| layers.i.attention.dense.weight                     | columns of heads / tp          | attn.o                  |
| layers.i.mlp.fc, mlp.gate, mlp.proj                 | gate_r, up_r, down_r           | mlp.gate, up, down (!)  |
| layers.i.mlp.fc, where gate and up are one matrix   | [up_r ; gate_r]                | mlp.up, mlp.gate        |
| layers.i.mlp.fc, of experts                         | per expert [up_r ; gate_r]     | moe.up, moe.gate        |
| layers.i.mlp.router.weight                          | whole, float32                 | moe.router              |
| lm_head.weight                                      | rows of vocab / tp             | head; embed where tied  |
| biases of dense and proj                            | whole (GPT-J: zeros for r > 0) |                         |

The activation is applied to `mlp.fc`, which is therefore Hugging Face's gate; a fused `mlp.fc` has it in its second
half. Ranks are numbered `stage * tp + r`, and the layers of each pipeline stage from 0. `linear.py` has the tensors of
quantized modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compiler.errors import ParallelError
from compiler.model.config import ModelConfig
from compiler.model.layout import Layout, Rounds, join_rows, join_scales, to_rank_plans
from compiler.model.lazy import Fold, Lazy, RankPlan
from compiler.model.ops import OnFirst, Op, Pad, Program, Repeat, Replicate, Shard, Stack
from compiler.model.parallel import check_parallel, head_layout, padded
from compiler.model.roles import TensorId, axis_sizes, model_tensors
from compiler.targets.trtllm.architectures import ArchitectureRow, row_for
from compiler.targets.trtllm.linear import Companion, companions, stored_as
from compiler.targets.trtllm.options import PLAIN, TrtllmOptions
from compiler.targets.trtllm.version import Version, version_of

NAMES: Mapping[str, str] = {
    "embed": "transformer.vocab_embedding",
    "position": "transformer.position_embedding",
    "final.norm": "transformer.ln_f",
    "head": "lm_head",
    "attn.norm": "input_layernorm",
    "attn.qkv": "attention.qkv",
    "attn.q_norm": "attention.q_layernorm",
    "attn.k_norm": "attention.k_layernorm",
    "attn.o": "attention.dense",
    "mlp.norm": "post_layernorm",
    "mlp.gate": "mlp.fc",
    "mlp.up": "mlp.gate",
    "mlp.up_gate": "mlp.fc",
    "mlp.plain": "mlp.fc",
    "mlp.down": "mlp.proj",
    "moe.router": "mlp.router",
    "moe.up_gate": "mlp.fc",
    "moe.down": "mlp.proj",
    "shared.up_gate": "mlp.shared_expert.fc",
    "shared.down": "mlp.shared_expert.proj",
    "shared.router": "mlp.shared_expert_gate",
}
_MOE_OLD = {"moe.up_gate.weight": "mlp.experts_weight_1", "moe.down.weight": "mlp.experts_weight_2"}
"""Full names in 0.8 and 0.9, without `.weight`."""
_SHARED_OLD = {
    "shared.up_gate": "shared_expert.fc",
    "shared.down": "shared_expert.proj",
    "shared.router": "shared_expert_gate",
}
"""Names up to 0.12, where the shared expert is not inside `mlp`."""

_FUSED = {
    "attn.qkv": ("attn.q", "attn.k", "attn.v"),
    "moe.up_gate": ("moe.up", "moe.gate"),
    "shared.up_gate": ("shared.up", "shared.gate"),
}
_FUSED_MLP = {"mlp.up_gate": ("mlp.up", "mlp.gate")}
_FOLDS: Mapping[str, Mapping[str, Fold]] = {
    "rms_plus_one": dict.fromkeys(("attn.norm", "mlp.norm", "final.norm"), "plus_one"),
    "l2_rows": {"head": "l2_rows"},
}
"""Operations that the model applies to weights at run time and the toolchain expects done, by trait of the model."""


def layouts(config: ModelConfig, tp: int, options: TrtllmOptions = PLAIN) -> list[Layout]:
    """All file tensors, stage by stage, in the order of computation.

    Raises:
        RefusedError: the version does not support the architecture.
        ParallelError: tp, pp or moe_ep do not divide the model.
    """
    version = version_of(options)
    row, _ = row_for(config, version)
    check_split(config, tp, options)
    sizes = _rank_sizes(config, tp, options)
    whole = {"head": {"vocab": padded(config.vocab, tp) // tp}, "moe.router": {"experts": config.experts}}
    tensors = model_tensors(config)
    if config.tied:
        tensors.append(TensorId("head"))
    done: dict[tuple[int, str], Layout] = {}
    for tensor in tensors:
        file_role, inputs = _inputs(tensor, row, config)
        stage, layer = _place(tensor, config, options.pp)
        name = _name(file_role, tensor.part, layer, version)
        if (stage, name) in done:
            continue
        sources = tuple(TensorId("embed") if config.tied and t.role == "head" and t.part == "weight" else t
                        for t in inputs)  # fmt: skip
        stored = stored_as(file_role, tensor.part, options)

        def of_part(part: Companion, name: str, inputs: tuple[TensorId, ...], stage: int) -> Layout:
            own = part.inputs(inputs)
            programs = tuple(_spread(t, row, config, tp, options) for t in own)
            join = (*join_scales(own, sizes), *((Stack(1),) if part.matrix else ()))
            return Layout(name, own, programs, join, dtype=part.dtype, stage=stage)

        rounds = None
        if stored:
            steps, columns = (of_part(part, name, inputs, stage) for part in (stored.steps, stored.columns))
            rounds = Rounds(steps, columns, stored.format)
        done[stage, name] = Layout(
            name,
            sources,
            tuple(_spread(t, row, config, tp, options) for t in inputs),
            join_rows(inputs, sizes | whole.get(tensor.role, {})),
            dtype=stored.dtype if stored else "F32" if tensor.role == "moe.router" else None,
            fold=_fold(tensor, config),
            stage=stage,
            rounds=rounds,
            packing=stored.packing if stored else None,
        )
        for part in companions(file_role, tensor.part, options):
            found = part.name.format(module=name.removesuffix(".weight"), layer=f"transformer.layers.{layer}")
            done[stage, found] = of_part(part, found, inputs, stage)
    return sorted(done.values(), key=lambda layout: layout.stage)


def rank_plans(
    config: ModelConfig,
    tp: int,
    tensors: Mapping[TensorId, Lazy],
    dtype: str,
    options: TrtllmOptions = PLAIN,
) -> list[RankPlan]:
    """Files of the tp x pp ranks. `dtype`: the files' dtype by its safetensors name (`BF16`)."""
    return to_rank_plans(layouts(config, tp, options), tensors, dtype, rank_file)


def rank_file(rank: int) -> str:
    return f"rank{rank}.safetensors"


def joined(row: ArchitectureRow) -> tuple[tuple[str, ...], ...]:
    """Roles of the layers that are joined to one matrix, in the order of their rows."""
    return tuple((_FUSED | (_FUSED_MLP if row.fused_mlp else {})).values())


def check_split(config: ModelConfig, tp: int, options: TrtllmOptions) -> None:
    """Check that tp, pp and moe_ep can split the model. Raises ParallelError with all reasons."""
    check_parallel(config, 1 if options.moe_ep > 1 else tp)
    head_layout(config.heads, config.kv_heads, tp)
    problems = list(_split_problems(config, tp, options))
    if problems:
        raise ParallelError(
            f"tp {tp}, pp {options.pp}, moe_ep {options.moe_ep}: {'; '.join(problems)}",
            hint="pp must divide the layers, moe_ep both tp and the experts, and tp / moe_ep the experts' width",
        )


def _split_problems(config: ModelConfig, tp: int, options: TrtllmOptions) -> Iterator[str]:
    pp, ep = options.pp, options.moe_ep
    if pp < 1 or config.layers % pp:
        yield f"{config.layers} layers do not divide by pp {pp}"
    if ep < 1 or tp % ep:
        yield f"moe_ep {ep} does not divide tp {tp}"
    elif ep > 1 and (not config.experts or config.experts % ep):
        yield f"{config.experts or 'no'} experts do not divide by moe_ep {ep}"
    elif ep > 1 and config.moe_ffn % (tp // ep):
        yield f"expert width {config.moe_ffn} does not divide by moe_tp {tp // ep}"
    elif ep > 1 and config.shared_ffn % tp:
        yield f"shared expert width {config.shared_ffn} does not divide by tp {tp}"


def _rank_sizes(config: ModelConfig, tp: int, options: TrtllmOptions) -> dict[str, int]:
    """Size of every axis on one rank."""
    sizes = axis_sizes(config)
    rows = (
        {axis: padded(sizes[axis], tp) // tp for axis in ("vocab", "positions")} if options.parallel_embedding else {}
    )
    split = {
        "heads": sizes["heads"] // tp,
        "kv_heads": max(sizes["kv_heads"] // tp, 1),
        "ffn": sizes["ffn"] // tp,
        "shared_ffn": sizes["shared_ffn"] // tp,
        "moe_ffn": sizes["moe_ffn"] // (tp // options.moe_ep),
        "experts": sizes["experts"] // options.moe_ep,
    }
    return sizes | split | rows


def _inputs(tensor: TensorId, row: ArchitectureRow, config: ModelConfig) -> tuple[str, tuple[TensorId, ...]]:
    """File role of a tensor, and all tensors of that role in the order of their rows."""
    if tensor.role == "mlp.up" and config.layer_kinds[tensor.layer or 0].mlp == "plain":
        return "mlp.plain", (tensor,)
    for name, roles in (_FUSED | (_FUSED_MLP if row.fused_mlp else {})).items():
        if tensor.role in roles:
            return name, tuple(TensorId(role, tensor.part, tensor.layer) for role in roles)
    return tensor.role, (tensor,)


def _place(tensor: TensorId, config: ModelConfig, pp: int) -> tuple[int, int | None]:
    """Pipeline stage, and number of the layer in it."""
    if tensor.layer is not None:
        return divmod(tensor.layer, config.layers // pp)
    return (0 if tensor.role in ("embed", "position") else pp - 1), None


def _name(file_role: str, part: str, layer: int | None, version: Version) -> str:
    if layer is None:
        return f"{NAMES[file_role]}.{part}"
    before = f"transformer.layers.{layer}."
    if version < (0, 10, 0) and f"{file_role}.{part}" in _MOE_OLD:
        return before + _MOE_OLD[f"{file_role}.{part}"]
    names = {**NAMES, **(_SHARED_OLD if version < (0, 13, 0) else {})}
    return f"{before}{names[file_role]}.{part}"


def _spread(tensor: TensorId, row: ArchitectureRow, config: ModelConfig, tp: int, options: TrtllmOptions) -> Program:
    """Program that makes one shard for each of the tp ranks of a stage."""
    axes = tensor.axes
    if tensor.role in ("embed", "position") and not options.parallel_embedding:
        return (Replicate(tp),)
    if tensor.part == "bias" and tensor.role in ("attn.o", "mlp.down"):
        return (OnFirst(tp),) if row.zero_bias_off_first else (Replicate(tp),)
    if tensor.role == "moe.router":
        return (Replicate(tp),)
    if axes[0] == "experts":
        # Rank r is (moe_tp_rank, moe_ep_rank) = divmod(r, moe_ep).
        moe_tp = tp // options.moe_ep
        columns: Op = Shard(axes.index("moe_ffn"), moe_tp) if "moe_ffn" in axes else Replicate(moe_tp)
        return (columns, Shard(0, options.moe_ep))
    for axis, name in enumerate(axes):
        if name in ("vocab", "positions"):
            size = axis_sizes(config)[name]
            return (Pad(axis, size, padded(size, tp)), Shard(axis, tp))
        if name == "kv_heads":
            return (Repeat(axis, head_layout(config.heads, config.kv_heads, tp).kv_copies), Shard(axis, tp))
        if name in ("heads", "ffn", "shared_ffn"):
            return (Shard(axis, tp),)
    return (Replicate(tp),)


def _fold(tensor: TensorId, config: ModelConfig) -> Fold:
    if tensor.part != "weight":
        return ""
    return _FOLDS.get(config.norm, {}).get(tensor.role) or _FOLDS.get(config.head, {}).get(tensor.role, "")
