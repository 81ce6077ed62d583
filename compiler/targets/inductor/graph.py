"""Arguments of torch.export for a segment: a module with flat inputs, example inputs and dynamic sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from compiler.decoder.attention import cache_dtype
from compiler.decoder.decoder import attn, embed, head, mlp, qkv
from compiler.decoder.kernels import Kernels
from compiler.decoder.rankfile.quantized import scale_of, stored_weight
from compiler.decoder.segments import PHASES, SegmentSpec, input_names, weight_shapes
from compiler.decoder.whole import whole_layer
from compiler.model.parallel import cache_shapes, head_layout
from compiler.quantization.schemes import FLOAT
from compiler.targets.inductor.attention import attend
from compiler.targets.inductor.floats import few_experts, linear, linear_many, many_experts
from compiler.targets.inductor.forms import FEW_TOKENS, MANY_TOKENS, form

FEW, MANY = (Kernels(linear, few_experts, attend=attend), FEW_TOKENS), (Kernels(linear_many, many_experts), MANY_TOKENS)
KERNELS = {"decode1": FEW, "decode": FEW, "prefill": MANY}
"""Kernels by phase: floating-point products and attention, and the products of quantized layers."""

EXAMPLES = {"B": 2, "Bmax": 3, "S": 5, "L": 7, "T": 11, "R": 13, "K": 17}
"""Sizes of the dynamic dimensions in the examples, all different, so that export does not unify any."""

STEP: dict[str, tuple[str, ...]] = {
    "token_ids": ("B", "S"),
    "positions": ("B", "S"),
    "key_positions": ("L",),
    "first": (),
    "vocab_offset": (),
    "rope.cos": ("R", "half"),
    "rope.sin": ("R", "half"),
    "rope_local.cos": ("R", "half"),
    "rope_local.sin": ("R", "half"),
    "alibi.slopes": ("heads",),
    "alibi.key_bias": ("heads", "R"),
    "cache_k": ("Bmax", "T", "cached_heads", "cached_dim"),
    "cache_v": ("Bmax", "T", "cached_heads", "cached_dim"),
    "x": ("B", "S", "hidden"),
    "qkv": ("B", "S", "qkv"),
    "mean_squares": ("B", "S", "two"),
    "last": ("B", "K"),
}
"""Shapes of the inputs other than weights, as in the table of `compiler.decoder.decoder`."""
_FLOAT32 = {"alibi.slopes", "alibi.key_bias", "mean_squares", "moe.correction.weight"}
_CACHES = {"cache_k", "cache_v"}
_INT64 = {"token_ids", "positions", "key_positions", "vocab_offset", "last"}


class Segment(torch.nn.Module):
    """One segment in one phase, with inputs in the order of `input_names`."""

    def __init__(self, spec: SegmentSpec) -> None:
        super().__init__()
        self.spec = spec
        self.names = input_names(spec)

    def forward(self, *inputs: Tensor) -> Tensor:
        spec, t = self.spec, dict(zip(self.names, inputs, strict=True))
        kernels, forms = KERNELS[spec.phase]
        if spec.products != FLOAT:
            product, of_experts = form(forms, spec.products)
            kernels = replace(kernels, quantized=product, quantized_experts=of_experts, head=product)
        match spec.part, spec.kind:
            case "embed", None:
                return embed(spec.config, t)
            case "qkv", _:
                return qkv(spec.config, t, kernels)
            case "attn", kind if kind:
                return attn(spec.config, kind, t, kernels)
            case "mlp", kind if kind:
                return mlp(spec.config, kind, t, kernels)
            case "layer", kind if kind:
                return whole_layer(spec.config, kind, t, kernels)
            case "head", None:
                return head(spec.config, t, kernels)
        raise AssertionError(spec.name)


def build_segment(spec: SegmentSpec, device: str) -> tuple[Segment, tuple[Tensor, ...], Any]:
    """Module, example inputs (fake tensors, without memory), and `dynamic_shapes` for torch.export.

    Export with `prefer_deferred_runtime_asserts_over_guards=True`: the package checks B <= Bmax and L < T at run time.
    """
    fixed = fixed_sizes(spec)
    free = {name: torch.export.Dim(name, min=1) for name in EXAMPLES if name not in fixed}
    weights = weight_shapes(spec)
    examples, dynamic = [], []
    with FakeTensorMode():
        for name in input_names(spec):
            axes: tuple[str | int, ...] = STEP[name] if name in STEP else weights[name]
            shape = [axis if isinstance(axis, int) else fixed.get(axis) or EXAMPLES[axis] for axis in axes]
            dtype = input_dtype(name, spec, weights)
            examples.append(torch.empty(shape, dtype=dtype, device=device))
            dynamic.append({i: free[axis] for i, axis in enumerate(axes) if axis in free})
    return Segment(spec), tuple(examples), (tuple(dynamic),)


def input_dtype(name: str, spec: SegmentSpec, weights: Mapping[str, object]) -> torch.dtype:
    """Dtype of an input. `weights`: those of the segment, by name."""
    if name in _FLOAT32 or name.endswith("scale"):
        return torch.float32
    if name in _CACHES and spec.cache:
        return cache_dtype(spec.cache)
    if name in _INT64:
        return torch.int64
    found: torch.dtype = getattr(
        torch, stored_weight(spec.products).torch_dtype if scale_of(name) in weights else spec.dtype
    )
    return found


def fixed_sizes(spec: SegmentSpec) -> dict[str, int]:
    """Sizes of the dimensions of `STEP` that the segment has only one of."""
    phase = next(phase for phase in PHASES if phase.name == spec.phase)
    config = spec.config
    heads = head_layout(config.heads, config.kv_heads, spec.tp)
    sizes = {
        "hidden": config.hidden,
        "half": config.rotary_dim // 2,
        "heads": heads.heads,
        **dict(zip(("cached_heads", "cached_dim"), cache_shapes(config, heads)["cache_k"], strict=True)),
        "qkv": (heads.heads + 2 * heads.kv_heads) * config.head_dim,
        "two": 2,
    }
    if phase.batch:
        sizes["B"] = phase.batch
    if phase.length:
        sizes["S"] = phase.length
        sizes["K"] = phase.length
    return sizes
