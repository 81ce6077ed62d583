"""Outcome of each saved checkpoint: equal, refused with a reason, read as a newer transformers reads it, or wrong.

Float32 has no one right result: two right implementations differ by their rounding. So transformers also computes each
model in float64. Logits are equal where they are within 1e-5 of transformers' own float32 logits, or of the float64
ones; and where transformers' own rounding is larger, within twice of that, up to 1e-4. All in units of the largest
logit. (Beyond 1e-4, routers choose other experts: there, nothing but 1e-5 from one of the two counts as equal.)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import recipes
from compiler.errors import LmiCompileError
from tests.cases.checkpoints import own_logits
from tests.conformance import draws
from tests.conformance.save import logits_of
from tests.tiny import recipe_of

TOKENS = 200
LIMIT = 1e-5
ROUNDING = 2.0
"""Largest error against float64, in units of transformers' own."""
LARGEST_ROUNDING = 1e-4
"""Largest error against float64 that counts as rounding."""
DRAWS = 8
"""Draws for each config that is wanted; a recipe whose class takes fewer has fewer."""
OLDER = {
    "deepseek_v2": (
        "mscale_all_dim",
        "scores with the factor of yarn that DeepSeek's own code, transformers 5 and vLLM have",
    ),
}
"""Recipe -> key of config.json that the class of transformers 4 does not read, and what is computed with it. (Read in
its modeling file, 4.57.1.)
"""
SAVE = Path(__file__).with_name("save.py")


@dataclass
class Outcomes:
    """Counts of one recipe. `newer`: configs that the other release reads in another way than the installed one, as
    which this project reads them, with a note in the plan; `skipped`: configs that transformers itself cannot save,
    load or run.
    """

    equal: int = 0
    newer: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    largest: float = 0.0

    @property
    def judged(self) -> int:
        return self.equal + self.newer.total() + self.refused.total() + len(self.wrong)

    def add(self, other: Outcomes) -> None:
        """Add the counts of another recipe."""
        self.equal += other.equal
        self.newer += other.newer
        self.skipped += other.skipped
        self.refused += other.refused
        self.wrong += other.wrong
        self.largest = max(self.largest, other.largest)


def keys_of(recipe: str) -> set[str]:
    """Keys of the recipe's class in the installed transformers; empty where it has none."""
    import dataclasses

    from transformers import CONFIG_MAPPING

    from tests.tiny import TINY

    kinds = {str(TINY[case]["model_type"]) for case in TINY if recipe_of(case) == recipe}
    return {key.name for kind in kinds if kind in CONFIG_MAPPING for key in dataclasses.fields(CONFIG_MAPPING[kind])}


def conform(recipe: str, configs: int, python: str, scratch: Path, first: int = 0) -> Outcomes:
    """Draw configs of a recipe until the transformers of `python` has saved and run `configs` of them; compare each."""
    known, found, last = keys_of(recipe), Outcomes(), first + DRAWS * configs
    while found.judged < configs and first < last:
        missing = configs - found.judged
        drawn = [draws.draw(recipe, seed, known) for seed in range(first, min(first + missing * 4 // 3 + 1, last))]
        first += len(drawn)
        jobs = [{"folder": str(scratch / f"{recipe}-{one.seed}"), **asdict(one)} for one in drawn]
        listed = scratch / f"{recipe}.json"
        listed.write_text(json.dumps(jobs))
        subprocess.run([python, str(SAVE), str(listed), str(TOKENS)], check=True, capture_output=True)
        for one in drawn:
            if found.judged < configs:
                _compare(scratch / f"{recipe}-{one.seed}", one, found, python)
    return found


def _compare(folder: Path, one: draws.Draw, found: Outcomes, python: str) -> None:
    import numpy as np
    import torch

    error = folder / "error.txt"
    if error.exists():
        found.skipped[error.read_text()[:160]] += 1
        return
    ids = torch.from_numpy(np.load(folder / "ids.npy"))
    try:
        own = own_logits(folder, ids, positions=TOKENS)[0].numpy()
    except LmiCompileError as refusal:
        found.refused[f"{type(refusal).__name__}: {_reason(refusal.message)}"] += 1
        return
    logits = np.load(folder / "logits.npy")
    if equal(own, logits, np.load(folder / "exact.npy")):
        found.equal += 1
        found.largest = max(found.largest, off(own, logits))
    elif python != sys.executable and (note := _newer(folder, own, ids, recipe_of(one.case))):
        found.newer[note] += 1
    else:
        found.wrong.append(
            f"{folder.name}: {off(own, logits):.2g} off; {one.case}, without {one.absent}, with {one.noise}"
        )


def equal(own: Any, logits: Any, exact: Any) -> bool:
    """Whether `own` logits are as right as `logits`, by the rule above; `exact`: the float64 ones."""
    rounding = min(ROUNDING * off(logits, exact), LARGEST_ROUNDING)
    return off(own, logits) <= LIMIT or off(own, exact) <= max(LIMIT, rounding)


def off(first: Any, second: Any) -> float:
    """Largest difference, in units of the largest logit of `second`."""
    import numpy as np

    return float(np.abs(first - second).max() / np.abs(second).max())


def _newer(folder: Path, own: Any, ids: Any, recipe: str) -> str:
    """Note of the plan, or entry of OLDER, about a config that the installed transformers reads as this project does;
    else nothing.
    """
    from compiler.api import Ask, PlanRequest, plan_of

    if not equal(own, logits_of(folder, ids), logits_of(folder, ids, exact=True)):
        return ""
    with tempfile.TemporaryDirectory() as scratch:
        ask = Ask(dtype="float32", max_positions=TOKENS)
        notes = plan_of(PlanRequest(model=str(folder), recipes=recipes, ask=ask, cache=Path(scratch))).notes
    key, reason = OLDER.get(recipe, ("", ""))
    known = [reason] if key and f'"{key}"' in (folder / "config.json").read_text() else []
    return next((_reason(note) for note in (*notes, *known) if "transformers 5" in note), "")


def _reason(message: str) -> str:
    """First line of the message, and of a list of problems the first."""
    return " ".join(line.strip() for line in message.splitlines()[:2])[:160]
