"""Rows about windows that an architecture does not read: a proof notices a reader that takes them all the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from compiler.decoder.forward import forward
from compiler.errors import NumericsError
from compiler.numerics.compare import thresholds
from compiler.numerics.passages import token_rows
from compiler.numerics.proof import proof_of
from compiler.numerics.record import numerics
from compiler.numerics.reference import source_passages
from tests.cases.case import case
from tests.cases.checkpoints import write
from tests.numerics.test_reference import planned
from tests.tiny import write_checkpoint
from tests.weights import rank_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compiler.numerics.proof import Proof

WINDOW = 64


def noticed(folder: Path) -> None:
    """The checkpoint, computed with a window of 64 that it does not have, fails; not by its first 48 tokens."""
    plan, checkpoint = planned(folder)
    assert all(kind.window is None for kind in plan.config.layer_kinds)
    windowed = replace(plan.config, layer_kinds=tuple(replace(kind, window=WINDOW) for kind in plan.config.layer_kinds))
    proof = proof_of(windowed, plan.limits.max_positions)
    rows, _ = token_rows(folder, windowed.vocab, proof)
    (weights,) = rank_weights(folder, 1)

    def judged(rows: tuple[Any, ...], proof: Proof) -> None:
        _, expected = source_passages(plan.config, None, plan.account.tensors, checkpoint, (rows, ()))
        found = [forward(windowed, weights, torch.from_numpy(ids)[None])[0].numpy() for ids in rows]
        numerics(expected, found, None, thresholds(plan.dtype), "transformers", proof)

    judged((rows[0][:48],), proof)
    assert "in row 1 from position 144" in refusal(lambda: judged(rows, proof))


def refusal(prove: Callable[[], None]) -> str:
    """Message of the NumericsError; "" where there is none."""
    try:
        prove()
    except NumericsError as error:
        return error.message
    return ""


@case(3, "LlamaForCausalLM computed with its leftover sliding_window")
def proof_of_llama(folder: Path) -> None:
    noticed(write(folder, {"sliding_window": WINDOW}))


@case(4, "Qwen2 without use_sliding_window, computed with its window")
def proof_of_qwen2(folder: Path) -> None:
    path = write_checkpoint("qwen2", folder) / "config.json"
    settings = {**json.loads(path.read_text()), "sliding_window": WINDOW}
    path.write_text(json.dumps({k: v for k, v in settings.items() if k not in ("use_sliding_window", "layer_types")}))
    noticed(folder)
