"""Cause of the differences of Mixtral's graphs in bfloat16: tokens for which rounding chooses other experts.

    python -m tests.neuron_routing

For tiny models: largest logit difference of the bfloat16 graphs (tp 4), and of transformers' own bfloat16, from
transformers in float32, in parts of the largest logit; and the tokens for which transformers' bfloat16 has other
experts than its float32, with the least margin between a chosen expert's score and the next one's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from compiler.targets.neuron.verify import execute, job_of, write_graphs
from compiler.targets.neuron.verify_model import write_shards
from tests.targets.neuron.graphs import PROMPTS, plan_of, rows_of
from tests.tiny import write_checkpoint
from tests.weights import canonical_weights

CASES = ("llama", "mixtral", "mixtral/window")
CHOSEN = 2
"""Experts of a token."""


def run(checkpoint: Path, dtype: torch.dtype, row: tuple[int, ...]) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Logits of transformers, and the scores of every router [tokens, experts]."""
    model, scores = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).eval(), list[torch.Tensor]()
    for module in model.modules():
        if hasattr(module, "gate") and hasattr(module, "experts"):
            module.gate.register_forward_hook(
                lambda _module, _inputs, made: scores.append((made[0] if isinstance(made, tuple) else made).float())
            )
    with torch.no_grad():
        logits = model(torch.tensor([list(row)])).logits[0].float().numpy()
    return logits, scores


def main() -> None:
    for case in CASES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            plan = plan_of(case, 4, batches=(2,), dtype="bfloat16")
            checkpoint = write_checkpoint(case, folder / "model", seed=0, dtype="float32")
            shards, _ = write_shards(plan, canonical_weights(checkpoint), folder)
            write_graphs(plan, folder)
            rows = rows_of(plan.config.vocab)
            (found,) = execute({folder: job_of(plan, folder, shards, rows, PROMPTS)})
            graphs = next(iter(found.runs.values()))
            exact = [run(checkpoint, torch.float32, row) for row in rows]
            rounded = [run(checkpoint, torch.bfloat16, row) for row in rows]
        scale = max(float(np.abs(logits).max()) for logits, _ in exact)
        ours = [np.abs(made - logits).max(-1) / scale for made, (logits, _) in zip(graphs, exact, strict=True)]
        theirs = [np.abs(a - b).max(-1) / scale for (a, _), (b, _) in zip(rounded, exact, strict=True)]
        print(f"{case}: graphs {max(map(max, ours)):.3f}, transformers in bfloat16 {max(map(max, theirs)):.3f}")
        for row, ((_, one), (_, other)) in enumerate(zip(exact, rounded, strict=True)):
            for layer, (a, b) in enumerate(zip(one, other, strict=True)):
                a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
                chosen = (a.topk(CHOSEN).indices.sort().values, b.topk(CHOSEN).indices.sort().values)
                best = a.sort(descending=True).values
                for token in torch.where((chosen[0] != chosen[1]).any(-1))[0].tolist():
                    margin = float(best[token, CHOSEN - 1] - best[token, CHOSEN])
                    print(f"  row {row} token {token} layer {layer}: other experts, margin {margin:.4f}, "
                          f"graphs {ours[row][token]:.3f}, transformers {theirs[row][token]:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
