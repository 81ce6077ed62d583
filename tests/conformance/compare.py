"""Outcome of each saved checkpoint: equal, refused with a reason, or wrong."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from compiler.errors import LmiCompileError
from tests.cases.checkpoints import own_logits
from tests.conformance import draws

TOKENS = 200
LIMIT = 1e-5
"""Largest difference of equal computations, in units of the largest logit; up to three times as much where the two
implementations of attention in transformers are that far apart.
"""
SAVE = Path(__file__).with_name("save.py")


@dataclass
class Outcomes:
    """Counts of one recipe. `skipped`: configs that transformers itself cannot save, load or run."""

    equal: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def keys_of(recipe: str) -> set[str]:
    """Keys of the recipe's class in the installed transformers; empty where it has none."""
    import dataclasses

    from transformers import CONFIG_MAPPING

    from tests.tiny import TINY, recipe_of

    kinds = {str(TINY[case]["model_type"]) for case in TINY if recipe_of(case) == recipe}
    return {key.name for kind in kinds if kind in CONFIG_MAPPING for key in dataclasses.fields(CONFIG_MAPPING[kind])}


def conform(recipe: str, configs: int, python: str, scratch: Path, first: int = 0) -> Outcomes:
    """Draw, save by the transformers of `python`, and compare `configs` configs of a recipe."""
    known = keys_of(recipe)
    drawn = [draws.draw(recipe, seed, known) for seed in range(first, first + configs)]
    jobs = [{"folder": str(scratch / f"{recipe}-{one.seed}"), **asdict(one)} for one in drawn]
    listed = scratch / f"{recipe}.json"
    listed.write_text(json.dumps(jobs))
    subprocess.run([python, str(SAVE), str(listed), str(TOKENS)], check=True, capture_output=True)
    found = Outcomes()
    for one in drawn:
        _compare(scratch / f"{recipe}-{one.seed}", one, found)
    return found


def _compare(folder: Path, one: draws.Draw, found: Outcomes) -> None:
    import numpy as np
    import torch

    error = folder / "error.txt"
    if error.exists():
        found.skipped[error.read_text().partition(":")[0]] += 1
        return
    expected = np.load(folder / "logits.npy")
    try:
        own = own_logits(folder, torch.from_numpy(np.load(folder / "ids.npy")), positions=TOKENS)[0].numpy()
    except LmiCompileError as refusal:
        found.refused[f"{type(refusal).__name__}: {_reason(refusal.message)}"] += 1
        return
    difference = float(np.abs(own - expected).max() / np.abs(expected).max())
    noise = float(np.load(folder / "noise.npy"))
    if difference < max(LIMIT, 3 * min(noise, LIMIT)):
        found.equal += 1
    else:
        found.wrong.append(f"{folder.name}: {difference:.2g} off; {one.case}, without {one.absent}, with {one.noise}")


def _reason(message: str) -> str:
    """First line of the message, and of a list of problems the first."""
    return " ".join(line.strip() for line in message.splitlines()[:2])[:160]
