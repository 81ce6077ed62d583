"""Target `trtllm`: TensorRT-LLM checkpoints, written and judged on any CPU; engines where `trtllm-build` is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.artifact.manifest import Device
from compiler.errors import UsageError
from compiler.machine import gpus
from compiler.model.config import ModelConfig
from compiler.model.roles import axis_sizes, model_tensors, shape_of
from compiler.targets import PLAIN, How, Need, Planned, PlannedRanks, TargetOptions
from compiler.targets.trtllm import elsewhere
from compiler.targets.trtllm.artifact import check_tokenizer, contents, options_of, problems, rank_folder
from compiler.targets.trtllm.build import HOST_COPIES
from compiler.targets.trtllm.check import check
from compiler.targets.trtllm.command import command_line, flags_of
from compiler.targets.trtllm.config import checkpoint_config, config_bytes
from compiler.targets.trtllm.layout import layouts, rank_plans
from compiler.targets.trtllm.limits import build_limits
from compiler.targets.trtllm.schemes import quantised, scaling
from compiler.targets.trtllm.spec import EnginesSpec
from compiler.targets.trtllm.version import version_of

if TYPE_CHECKING:
    from compiler.targets.trtllm.judge import Judge


__all__ = [
    "check",
    "check_tokenizer",
    "command",
    "contents",
    "device",
    "elsewhere",
    "files",
    "judge_of",
    "kernels",
    "layouts",
    "name",
    "needs",
    "options_of",
    "problems",
    "quantised",
    "rank_folder",
    "rank_plans",
    "scaling",
    "specs",
    "stages",
]

name = "trtllm"
stages = ("plan", "convert", "judge", "compile", "package", "verify")
kernels = None
"""The judge computes what these files hold."""


def files(config: ModelConfig, tp: int, dtype: str, options: TargetOptions = PLAIN) -> Mapping[str, bytes]:
    """config.json of the checkpoint, in the dialect of the version."""
    return {"config.json": config_bytes(checkpoint_config(config, tp, dtype, options))}


def needs(config: ModelConfig, tp: int = 1, options: TargetOptions = PLAIN) -> Sequence[Need]:
    """Building one rank at a time; the toolchain's documentation states no figures (those here are from reports)."""
    from compiler.targets.trtllm.judge_model import BLOCK

    sizes = axis_sizes(config)
    weights = 2 * sum(prod(shape_of(tensor, sizes)) for tensor in model_tensors(config))
    rank = weights // (tp * options.pp)
    return (
        Need("judge", JUDGE_BUFFERS * BLOCK, 0, "float32, some rows of a matrix at a time"),
        Need("engine", HOST_COPIES * rank, weights, "trtllm-build, one worker; needs a GPU"),
    )


JUDGE_BUFFERS = 4
"""Blocks of rows that the judge holds: read, widened, converted, and their product."""


def judge_of(folder: Path, config: ModelConfig, max_memory: int) -> Judge:
    """What TensorRT-LLM would compute from the checkpoint in `folder`: see judge.py."""
    import json

    from compiler.targets.trtllm.judge import Judge
    from compiler.targets.trtllm.judge_model import BLOCK
    from compiler.targets.trtllm.read import RankTensors

    content = json.loads((folder / "config.json").read_bytes())
    ranks = [RankTensors(folder / f"rank{rank}.safetensors") for rank in range(content["mapping"]["world_size"])]
    windows = [kind.window for kind in config.layer_kinds]
    return Judge(content, ranks, windows, min(BLOCK, max_memory // JUDGE_BUFFERS))


def device(how: How) -> Device:
    """The GPU that the driver of this machine names: engines are built on what will run them. Raises UsageError."""
    if how.march is not None or how.device == "cpu":
        raise UsageError(
            "target `trtllm` builds for the GPU of the machine that builds",
            hint="leave out `--march` and `--device cpu`",
        )
    found, _ = gpus()
    return Device(kind="cuda", capability=found[0].capability if found else None)


def command(plan: Planned) -> Sequence[str]:
    """Of `trtllm-build`."""
    return command_line(plan)


def specs(plan: PlannedRanks, source: str) -> Sequence[EnginesSpec]:
    """One: the engines of all ranks."""
    return (
        EnginesSpec(
            source,
            plan.digest,
            version_of(plan.options),
            tuple(flags_of(plan)),
            build_limits(plan.limits, plan.options),
            ranks=len(plan.ranks),
            rank_bytes=max(rank.nbytes for rank in plan.ranks),
        ),
    )
