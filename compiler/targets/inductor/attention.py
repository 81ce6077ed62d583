"""Attention of decode steps as a torch operator: defined in plain torch, and by `native/attend.h` in a CPU package.

The native code reads the visible positions of each row (the last ones with a sliding window) once, in the cache's own
dtype. `python -m benchmarks.attention` compares it with the definition.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._ops import OpOverload

from compiler.decoder import attention
from compiler.decoder.attention import Cache, Scores
from compiler.targets.inductor.ops import NAMESPACE

_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
_SCHEMA = (
    "attend(Tensor q, Tensor k, Tensor v, Tensor? k_scale, Tensor? v_scale, Tensor positions, Tensor? slopes,"
    " int window, float scale, float softcap) -> Tensor"
)
_SHIM = (
    "AOTITorchError aoti_torch_cpu_attend(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, AtenTensorHandle*,"
    " AtenTensorHandle*, AtenTensorHandle, AtenTensorHandle*, int64_t, double, double, AtenTensorHandle*)"
)


def _define(
    q: Tensor, k: Tensor, v: Tensor, k_scale: Tensor | None, v_scale: Tensor | None, positions: Tensor,
    slopes: Tensor | None, window: int, scale: float, softcap: float,
) -> Tensor:  # fmt: skip
    keys = torch.arange(k.shape[1], device=k.device)
    scores = Scores(window or None, scale=scale, softcap=softcap, slopes=slopes)
    return attention.attend(q, Cache(k, v, k_scale, v_scale), positions, keys, scores).contiguous()


def _shape(q: Tensor, *_others: object) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def _register() -> OpOverload:
    _LIBRARY.define(_SCHEMA)
    _LIBRARY.impl("attend", _define, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::attend", _shape, lib=_LIBRARY)
    operator: OpOverload = getattr(torch.ops, NAMESPACE).attend.default
    return operator


OPERATOR = _register()


def shims() -> dict[OpOverload, list[str]]:
    """C declaration of the operator for inductor; `native/attend_shim.cpp` defines it."""
    return {OPERATOR: [_SHIM]}


def attend(q: Tensor, cache: Cache, positions: Tensor, keys: Tensor, scores: Scores) -> Tensor:
    """Attention, see `compiler.decoder.attention.Attend`. On a CPU softmax is in float32, and `keys` is unused.

    Scores with chunks or sinks are computed in plain torch.
    """
    if q.device.type != "cpu" or not scores.usual:
        return attention.attend(q, cache, positions, keys, scores)
    y: Tensor = OPERATOR(
        q.contiguous(), cache.k, cache.v, cache.k_scale, cache.v_scale, positions.contiguous(), scores.slopes,
        scores.window or 0, scores.scale or q.shape[-1] ** -0.5, scores.softcap,
    )  # fmt: skip
    return y
