"""Refusals, with reason and remedy, of models that TensorRT-LLM cannot build, before weights are read."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.model.identity import changed_fields
from compiler.model.limits import Limits
from compiler.model.parallel import head_layout
from compiler.quantization.vendors import FP8, NATIVE, VENDOR_CACHES, VENDOR_SCHEMES, W4A16_AWQ, W8A16
from compiler.targets.trtllm.architectures import ArchitectureRow, row_for
from compiler.targets.trtllm.layout import check_split
from compiler.targets.trtllm.limits import build_limits
from compiler.targets.trtllm.linear import STORED
from compiler.targets.trtllm.options import PLAIN, TrtllmOptions
from compiler.targets.trtllm.version import Version, show, version_of

Finding = tuple[str, str]  # reason with expected and found; hint, "" for _OTHERWISE
_OTHERWISE = "build it with `--target inductor`, which supports every recipe"


def check(config: ModelConfig, tp: int = 1, options: TrtllmOptions = PLAIN, limits: Limits | None = None) -> None:
    """Raise RefusedError (ParallelError for tp, pp, moe_ep) if the version cannot build this model, UsageError for
    properties that its container does not read.
    """
    options.check_serving()
    if limits is not None:
        build_limits(limits, options)
    version = version_of(options)
    row, _ = row_for(config, version)
    for problems in (_mathematics, _rotary, _parallel, _quantization):
        for reason, remedy in problems(config, row, version, options):
            raise RefusedError(
                f"TensorRT-LLM {show(version)} cannot build {config.architecture}: {reason}", hint=remedy or _OTHERWISE
            )
    if version < (0, 11, 0) and options.moe_ep not in (1, tp):
        raise RefusedError(
            f"TensorRT-LLM {show(version)} needs moe_ep 1 or tp = {tp}; found {options.moe_ep}",
            hint="use `--trtllm-version 0.11.0` or later",
        )
    found = VENDOR_SCHEMES.get(options.quant_algo)
    if found is not None and found.rounded_at_load:
        for layer, width in (("mlp", config.ffn), ("expert", config.moe_ffn if config.experts else 0)):
            if width % (64 * tp):
                raise RefusedError(
                    f"{options.quant_algo} needs multiples of 64 x tp = {64 * tp}; the {layer} is {width} wide",
                    hint="use a smaller tp, or another quantization",
                )
    check_split(config, tp, options)
    if found is not None and found.group is not None:
        _check_groups(config, tp, options)


def _check_groups(config: ModelConfig, tp: int, options: TrtllmOptions) -> None:
    """Check that the loader pads no groupwise layer: it would to multiples of a group's size and of 64, times tp."""
    heads = head_layout(config.heads, config.kv_heads, tp)
    rows = (heads.heads + 2 * heads.kv_heads) * config.head_dim
    step = max(64, options.group_size)
    for name, width, unit in (
        ("hidden size", config.hidden, step * tp),
        ("projection to q, k and v of a rank", rows, step),
        ("mlp of a rank", config.ffn // tp, step),
    ):
        if width % unit:
            smaller = "pass `--group-size 64`, or " if options.group_size > 64 and width % (unit // 2) == 0 else ""
            raise RefusedError(
                f"{options.quant_algo} in groups of {options.group_size} needs multiples of {unit}; the {name} is "
                f"{width} wide",
                hint=f"{smaller}use a smaller tp, or another quantization",
            )


def _mathematics(config: ModelConfig, row: ArchitectureRow, version: Version, _: TrtllmOptions) -> Iterator[Finding]:
    found = (config.qkv_bias, config.out_bias, config.mlp_bias)
    dense = {kind.mlp for kind in config.layer_kinds}
    if config.norm != row.norm:
        yield f"its model class has {row.norm} norms; found {config.norm}", ""
    if config.position not in row.positions:
        yield f"positions are {' or '.join(row.positions)}; found {config.position}", ""
    if found not in row.biases:
        allowed = " or ".join(_biases(biases) for biases in row.biases)
        yield f"biases are on {allowed}; found them on {_biases(found)}", ""
    if config.parallel_residual != row.parallel_residual:
        wanted, found_order = ("parallel", "in sequence") if row.parallel_residual else ("in sequence", "parallel")
        yield f"its model class computes attention and mlp {wanted}; found {found_order}", ""
    if config.norms != "before" or config.parallel_mlp_norm or not config.norm_bias:
        yield "its model class has a norm before each block (one for parallel blocks), layer norms with a bias", ""
    if config.qk_norm and config.qk_norm_over != "head_dim":
        yield "it supports norms on q and k only with one weight for all heads", ""
    changed = changed_fields(config)
    for name in _UNSUPPORTED:
        if name in changed:
            yield f"its model class has no `{name}`; found {changed[name]}", ""
    if any(kind.rope != "main" for kind in config.layer_kinds):
        yield "all layers have rotary positions of one theta; this model has others", ""
    if row.ffn_times_hidden and config.ffn != row.ffn_times_hidden * config.hidden:
        yield f"its mlp is {row.ffn_times_hidden * config.hidden} wide; found {config.ffn}", ""
    if "moe" in dense and len(dense) > 1:
        yield "either all layers have experts or none; this model mixes them", ""
    if (row.fused_mlp or "moe" in dense) and config.activation != "silu":
        yield f"the fused mlp computes silu; found {config.activation}", ""
    if config.qk_norm and version < (0, 20, 0):
        yield "norms on q and k need 0.20", "use `--trtllm-version 0.20.0` or later"


_UNSUPPORTED = (
    "logit_scale", "logit_softcap", "residual_scale", "attention_scale", "attention_softcap", "clip_qkv",
    "embedding_norm", "position_offset", "alibi",
)  # fmt: skip
"""Fields of ModelConfig that no model class here reads: they have their defaults."""


def _biases(biases: tuple[bool, bool, bool]) -> str:
    names = ("q k v", "the attention's output", "the mlp")
    return ", ".join(name for name, there in zip(names, biases, strict=True) if there) or "nothing"


def _rotary(config: ModelConfig, row: ArchitectureRow, version: Version, _: TrtllmOptions) -> Iterator[Finding]:
    """Refusals of rope settings."""
    if config.position != "rope":
        return
    if config.rotary_dim != config.head_dim and not row.partial_rotary:
        yield f"the rotation covers all {config.head_dim} dimensions of a head; found {config.rotary_dim}", ""
    scaling = config.rope_scaling
    if scaling is None or (scaling.kind == "dynamic" and not scaling.extended):
        return
    if scaling.kind not in ("linear", "llama3"):
        within = scaling.kind == "dynamic"
        advice = f"`--max-positions {scaling.original_max_positions}`" if within else "use target `inductor`"
        yield f"the rope scalings of this target are linear and llama3; found {scaling.kind}", advice
        return
    if not row.rope_scaling:
        yield f"its model class reads no rope scaling; found {scaling.kind}", "build at the base context length"
    if scaling.kind == "llama3" and version < (0, 12, 0):
        yield "llama3 rope scaling needs 0.12", "use `--trtllm-version 0.12.0` or later"
    if scaling.kind == "linear" and scaling.factor <= 1:
        yield f"a rope factor is above 1; found {scaling.factor:g}", "leave the scaling out"


def _parallel(config: ModelConfig, row: ArchitectureRow, _: Version, options: TrtllmOptions) -> Iterator[Finding]:
    if options.pp > 1 and not row.pp:
        yield f"its model class has no pipeline stages; found pp {options.pp}", "use tp alone"
    if options.moe_ep > 1 and not config.experts:
        yield f"moe_ep {options.moe_ep} needs experts; it has none", "leave `moe_ep` out"


def _quantization(
    config: ModelConfig, row: ArchitectureRow, version: Version, options: TrtllmOptions
) -> Iterator[Finding]:
    algo, kv = options.quant_algo, options.kv_cache_quant_algo
    if kv and kv not in VENDOR_CACHES:
        yield f"quantizations of the KV cache are {', '.join(VENDOR_CACHES)}; found {kv}", "leave it out"
    found = VENDOR_SCHEMES.get(algo)
    if found is None:
        if algo:
            yield f"quantizations are {', '.join(VENDOR_SCHEMES)}; found {algo}", f"use {W8A16}, or none"
        return
    if version < found.since:
        yield f"{algo} needs {show(found.since)}", f"use `--trtllm-version {show(found.since)}` or later"
    if found.smooths and config.experts:
        yield "there is no SmoothQuant for experts", f"use {FP8} or {W8A16}"
    elif found.plugin and not row.smooth_quant:
        yield "SmoothQuant is not supported for it", f"use {W8A16}, or {FP8} on Hopper and Ada"
    if algo == FP8 and config.experts and version < (0, 10, 0):
        yield "the place of experts' scales in 0.8 and 0.9 is not verified", "use `--trtllm-version 0.10.0` or later"
    if algo == W4A16_AWQ and config.experts:
        yield f"the layout of experts under {algo} is not verified", f"use {FP8} or {W8A16}"
    if found.plugin and config.parallel_residual:
        yield "the plugin's scales of one norm for attention and mlp are not verified", f"use {W8A16}"
    if found.plugin and config.qk_norm:
        yield "the plugin with norms on q and k is not verified", f"use {NATIVE} or {W8A16}"
    if found.unverified:
        yield f"{algo}: {found.unverified}", f"use {' or '.join(STORED)}"
