"""Command line of `trtllm-build`, by version.

Optional flags are left out where the command's own `--help` does not list them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.targets.trtllm.limits import build_limits
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.section import BuildLimits
from compiler.targets.trtllm.version import Version, version_of
from compiler.targets.values import Planned

COMMAND = "trtllm-build"
CHECKPOINT, ENGINES = "checkpoint", "engines"
"""Folders of an artifact: the builder's input and output."""


@dataclass(frozen=True)
class BuilderFlag:
    """Flag of `trtllm-build` from version `first` up to before `end`. `optional`: pass it only if `--help` lists it."""

    name: str
    value: str
    optional: bool = False
    first: Version = (0, 8, 0)
    end: Version = (99, 0, 0)


def flags(version: Version, dtype: str, limits: BuildLimits, *, experts: bool) -> list[BuilderFlag]:
    """Flags of the builder, except folders and number of workers."""
    table = [
        BuilderFlag("--max_batch_size", str(limits.max_batch_size)),
        BuilderFlag("--max_input_len", str(limits.max_input_len)),
        BuilderFlag("--max_output_len", str(limits.max_seq_len - limits.max_input_len), end=(0, 12, 0)),
        BuilderFlag("--max_seq_len", str(limits.max_seq_len), first=(0, 12, 0)),
        BuilderFlag("--max_num_tokens", str(limits.max_num_tokens)),
        BuilderFlag("--gemm_plugin", dtype),
        BuilderFlag("--gpt_attention_plugin", dtype),
        BuilderFlag("--remove_input_padding", "enable"),
        BuilderFlag("--context_fmha", "enable", optional=True),
        BuilderFlag("--paged_kv_cache", "enable", end=(0, 12, 0)),
        BuilderFlag("--kv_cache_type", "paged", optional=True, first=(0, 12, 0)),
    ]
    if experts:
        table.append(BuilderFlag("--moe_plugin", dtype, optional=True))
    return [flag for flag in table if flag.first <= version < flag.end]


def flags_of(plan: Planned[TrtllmOptions]) -> list[BuilderFlag]:
    """Flags for the checkpoint of a plan."""
    limits = build_limits(plan.limits, plan.options)
    return flags(version_of(plan.options), plan.dtype, limits, experts=plan.config.experts > 0)


def command_line(plan: Planned[TrtllmOptions]) -> list[str]:
    """Command line that builds the engines in the artifact's folder, with all flags."""
    return argv(CHECKPOINT, ENGINES, flags_of(plan))


def argv(checkpoint: str, output: str, chosen: Sequence[BuilderFlag], known: str | None = None) -> list[str]:
    """Command line of the builder. `known`: text of `--help`; None passes all flags."""
    line = [COMMAND, "--checkpoint_dir", checkpoint, "--output_dir", output]
    for flag in chosen:
        if known is None or not flag.optional or flag.name in known:
            line += [flag.name, flag.value]
    return line
