"""Target `trtllm`: TensorRT-LLM checkpoints, written and judged on any CPU; engines where `trtllm-build` is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from compiler.ir.config import ModelConfig
from compiler.ir.roles import axis_sizes, model_tensors, shape_of
from compiler.targets import PLAIN, Need, TargetOptions
from compiler.targets.trtllm.build import HOST_COPIES
from compiler.targets.trtllm.check import check
from compiler.targets.trtllm.config import checkpoint_config, config_bytes
from compiler.targets.trtllm.layout import layouts, rank_plans

__all__ = ["check", "files", "layouts", "name", "needs", "rank_plans"]

name = "trtllm"


def files(config: ModelConfig, tp: int, dtype: str, options: TargetOptions = PLAIN) -> Mapping[str, bytes]:
    """config.json of the checkpoint, in the dialect of the version."""
    return {"config.json": config_bytes(checkpoint_config(config, tp, dtype, options))}


def needs(config: ModelConfig, tp: int = 1, options: TargetOptions = PLAIN) -> Sequence[Need]:
    """Building one rank at a time; the toolchain's documentation states no figures (those here are from reports)."""
    sizes = axis_sizes(config)
    weights = 2 * sum(prod(shape_of(tensor, sizes)) for tensor in model_tensors(config))
    rank = weights // (tp * options.pp)
    return (
        Need("judge", 4 * max(prod(shape_of(t, sizes)) for t in model_tensors(config)) * 2, 0, "float32, by layers"),
        Need("engine", HOST_COPIES * rank, weights, "trtllm-build, one worker; needs a GPU"),
    )
