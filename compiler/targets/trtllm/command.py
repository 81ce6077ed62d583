"""The command line of `trtllm-build`, per version.

Flags differ by version: those marked optional are left out where the command's own `--help` does not name them.
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
"""Folders of an artifact: what the builder reads, and where it leaves the engines."""


@dataclass(frozen=True)
class Flag:
    """`optional`: only where `--help` names it. `first`, `end`: versions that have it, the end excluded."""

    name: str
    value: str
    optional: bool = False
    first: Version = (0, 8, 0)
    end: Version = (99, 0, 0)


def flags(version: Version, dtype: str, limits: BuildLimits, *, experts: bool) -> list[Flag]:
    """What the builder is told besides the folders and how many workers it has."""
    table = [
        Flag("--max_batch_size", str(limits.max_batch_size)),
        Flag("--max_input_len", str(limits.max_input_len)),
        Flag("--max_output_len", str(limits.max_seq_len - limits.max_input_len), end=(0, 12, 0)),
        Flag("--max_seq_len", str(limits.max_seq_len), first=(0, 12, 0)),
        Flag("--max_num_tokens", str(limits.max_num_tokens)),
        Flag("--gemm_plugin", dtype),
        Flag("--gpt_attention_plugin", dtype),
        Flag("--remove_input_padding", "enable"),
        Flag("--context_fmha", "enable", optional=True),
        Flag("--paged_kv_cache", "enable", end=(0, 12, 0)),
        Flag("--kv_cache_type", "paged", optional=True, first=(0, 12, 0)),
    ]
    if experts:
        table.append(Flag("--moe_plugin", dtype, optional=True))
    return [flag for flag in table if flag.first <= version < flag.end]


def flags_of(plan: Planned[TrtllmOptions]) -> list[Flag]:
    """The flags for the checkpoint of a plan."""
    limits = build_limits(plan.limits, plan.options)
    return flags(version_of(plan.options), plan.dtype, limits, experts=plan.config.experts > 0)


def command_line(plan: Planned[TrtllmOptions]) -> list[str]:
    """What builds the engines, in the folder of the artifact, if the builder knows every flag."""
    return argv(CHECKPOINT, ENGINES, flags_of(plan))


def argv(checkpoint: str, output: str, chosen: Sequence[Flag], known: str | None = None) -> list[str]:
    """The command line; `known` is the text of `--help` (None: every flag is taken to be known)."""
    line = [COMMAND, "--checkpoint_dir", checkpoint, "--output_dir", output]
    for flag in chosen:
        if known is None or not flag.optional or flag.name in known:
            line += [flag.name, flag.value]
    return line
