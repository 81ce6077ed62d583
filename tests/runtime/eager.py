"""Shares of a model whose segments run in plain torch: ranks and engine without a compiled package.

As a follower's share (`tests.runtime.eager:share`) the artifact's path is the folder of a tiny checkpoint. The file
`fault` in it tells one rank to fail: "RANK STEP HOW", HOW one of raise, kill, stop, exit-while-loading,
exit-while-joining.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compiler.decoder.segments import compiled_whole, segment_names
from compiler.model.limits import Limits
from compiler.runtime.commands import StepCommand
from compiler.runtime.engine import Engine, Logits, Share
from compiler.runtime.follower import RankRole
from compiler.runtime.load import assemble
from compiler.runtime.ranks import Ranks
from tests.simulated import run_eagerly
from tests.weights import model_config, rank_weights

if TYPE_CHECKING:
    from torch import Tensor

LIMITS = Limits(max_positions=128, max_batch=4, prefill_chunk=16)
SHARE = "tests.runtime.eager:share"


def share(role: RankRole) -> Share:
    """The float32 share of a rank, with the fault that the folder asks for."""
    torch.set_num_threads(1)
    config = model_config(role.artifact)
    weights: dict[str, Tensor] = rank_weights(role.artifact, role.tp)[role.rank]
    whole = compiled_whole(config, role.tp, "float")
    layers = [segment_names(config, kind, whole=whole) for kind in config.layer_kinds]
    made = assemble(config, LIMITS, layers, weights, run_eagerly, rank=role.rank, tp=role.tp, device=role.device)
    fault = role.artifact / "fault"
    if fault.exists():
        rank, step, how = fault.read_text().split()
        if int(rank) == role.rank:
            if how == "exit-while-loading":
                raise MemoryError("no room for the weights")
            if how == "exit-while-joining":
                # The follower is the program that runs, so it is not the module of its name.
                setattr(sys.modules["__main__"], "_join", lambda *_: os._exit(3))  # noqa: B010
            _fail_at(made, int(step), how)
    return made


def engine(checkpoint: Path, tp: int = 1, timeout: float = 60.0) -> Engine:
    """All ranks of a checkpoint, joined."""
    ranks = Ranks(checkpoint, tp, share=SHARE, timeout=timeout) if tp > 1 else None
    mine = share(RankRole(checkpoint, SHARE, 0, tp, "cpu", timeout))
    if ranks is not None:
        mine.group = ranks.connect()
    return Engine(mine, ranks)


def _fail_at(made: Share, step: int, how: str) -> None:
    real = made.step
    count = 0

    def failing(command: StepCommand) -> Logits | None:
        nonlocal count
        count += 1
        if count == step:
            match how:
                case "raise":
                    raise ValueError("a made-up fault")
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "stop":
                    os.kill(os.getpid(), signal.SIGSTOP)
        return real(command)

    setattr(made, "step", failing)  # noqa: B010 - the seam for faults, in tests only
