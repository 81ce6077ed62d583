"""Refusals before vLLM loads anything: shards of another number of ranks, kernels of another GPU.

vLLM 0.32.0 takes shards of tp 2 with tp 1: it answers with garbage, and only warns. Kernels of another compute
capability can have the same key, and crash the process that loads them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from .restore import Unrestorable

_TP_FLAGS = ("--tensor-parallel-size", "--tensor_parallel_size", "-tp")
_TP_VARIABLES = ("SM_VLLM_TENSOR_PARALLEL_SIZE", "OPTION_TENSOR_PARALLEL_DEGREE", "TENSOR_PARALLEL_DEGREE")


def check_ranks(manifest: Mapping[str, Any], argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Compare the artifact's tp with that of a command line or of a container's variables, where these have one.

    Raises Unrestorable.
    """
    expected = str(manifest.get("parallel", {}).get("tp", ""))
    found = [value for flag, value in _flags(argv) if flag in _TP_FLAGS]
    found += [environment[name] for name in _TP_VARIABLES if environment.get(name, "max") != "max"]
    if expected and found and found[-1] != expected:
        raise Unrestorable(f"the artifact has shards for tp {expected}; the server was started with tp {found[-1]}")


def check_capability(manifest: Mapping[str, Any]) -> None:
    """Compare the compute capability that kernels were compiled for with those of the GPUs here, by nvidia-smi.

    Where that is missing, vLLM's own key decides. Raises Unrestorable.
    """
    wanted = manifest.get("device", {}).get("capability")
    if not wanted:
        return
    try:
        ran = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            env=dict(os.environ),
        )
    except (OSError, subprocess.SubprocessError):
        return
    found = sorted(set(ran.stdout.split()))
    if found and wanted not in found:
        raise Unrestorable(
            f"the cache was compiled for compute capability {wanted}; this machine has {', '.join(found)}"
        )


def _flags(argv: Sequence[str]) -> list[tuple[str, str]]:
    """Flags with their values, `--name value` and `--name=value`."""
    joined = [tuple(word.split("=", 1)) for word in argv if word.startswith("-") and "=" in word]
    apart = [(argv[place], argv[place + 1]) for place in range(len(argv) - 1) if argv[place].startswith("-")]
    return [*((flag, value) for flag, value in joined), *apart]
