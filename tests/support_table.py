"""The table of what is supported, made from the recipes: `python -m tests.support_table` prints it.

Outcomes are those of plans at the sizes of published checkpoints. The last column is measured: each tiny checkpoint of
the recipe is converted in float32 for TensorRT-LLM, and its ranks are judged against the logits of the source.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import recipes
from compiler import targets
from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.model.limits import limits_for
from compiler.pipeline.convert_only import convert_to
from compiler.pipeline.request import Ask, PlanRequest
from compiler.pipeline.support import taken
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES, Scheme
from compiler.targets.options import TargetOptions
from compiler.targets.trtllm.options import PLAIN, TrtllmOptions
from compiler.targets.trtllm.runtime import judge_of
from compiler.targets.vllm.options import VllmOptions
from tests import published
from tests.tiny import TINY, recipe_of, write_checkpoint

TPS = (1, 2, 4, 8)
BEGIN, END = "<!-- python -m tests.support_table -->", "<!-- end of the table -->"
REFUSED = "refused"
VERSIONS = {"trtllm": ("0.12.0", "0.21.0")}
"""By target, the versions that are tried in this order; elsewhere there is one."""


@dataclass(frozen=True)
class Outcome:
    """`version`: the first that takes the model, "" where the target has none; `reason`: where it is refused."""

    version: str
    reason: str


@cache
def outcome(model: str, target: str, tp: int) -> Outcome:
    """What is said to the published checkpoint `model` when it is planned."""
    config = _config(model)
    reason = ""
    for version in VERSIONS.get(target, ("",)):
        try:
            chosen = targets.load(target)
            options = _options(target, version)
            chosen.support.check(config, tp, options, limits_for(config, None, 8))
        except RefusedError as error:
            reason = error.message
        else:
            return Outcome(version, "")
    return Outcome("", reason)


@cache
def schemes(model: str, target: str) -> str:
    """Those that are built of the published checkpoint at some tp, as the toolchain runs them; "no" for none."""
    found = [name for name, scheme in SCHEMES.items() if any(_runs(model, target, scheme, tp) for tp in TPS)]
    return " ".join(found) or "no"


def _runs(model: str, target: str, scheme: Scheme, tp: int) -> bool:
    config, chosen = _config(model), targets.load(target)
    version = outcome(model, target, tp).version
    options = _options(target, version)
    try:
        taken(chosen, config, Quant(scheme), tp, options, limits_for(config, None, 8))
    except RefusedError:
        return False
    return True


def _options(target: str, version: str) -> TargetOptions:
    """Options under which a target writes files of its own layout."""
    own: dict[str, TargetOptions] = {
        "trtllm": replace(PLAIN, version=version),
        "vllm": VllmOptions(weights="shards"),
    }
    return own.get(target) or targets.options_of(target)()


CONVERTING = tuple(name for name in targets.available() if targets.load(name).layout is not None)
"""Targets that convert weights; the others take every recipe."""


@cache
def _config(model: str) -> ModelConfig:
    hf = published.CONFIGS[model]
    return recipes.for_config(hf)[1].resolve(hf, None).model_config(hf, None)


def rows() -> Iterator[tuple[str, ...]]:
    """Recipe, published model, for each target the tp that it takes, and from which version on; and what `trtllm`
    quantizes.
    """
    for model in sorted(published.CONFIGS, key=lambda name: (_recipe(name), name)):
        found = {(t, tp): outcome(model, t, tp) for t in CONVERTING for tp in TPS}
        cells = []
        for target in CONVERTING:
            works = [str(tp) for tp in TPS if not found[target, tp].reason]
            versions = {found[target, tp].version for tp in TPS if not found[target, tp].reason}
            since = f" ({min(versions)})" if versions - {""} else ""
            cells.append(" ".join(works) + since if works else "no")
        yield (f"`{_recipe(model)}`", model, *cells, schemes(model, "trtllm"))


def refusals() -> list[str]:
    """Every refusal in a line: model, tps, targets, reason."""
    lines = []
    for model in sorted(published.CONFIGS):
        found: dict[tuple[str, str], list[int]] = {}
        for tp in TPS:
            reasons = {target: outcome(model, target, tp).reason for target in CONVERTING}
            for reason in sorted(set(reasons.values()) - {""}):
                by = ", ".join(target for target, other in reasons.items() if other == reason)
                found.setdefault((by, reason), []).append(tp)
        lines += [f"- {model} at tp {' '.join(map(str, tps))} ({by}): {reason}" for (by, reason), tps in found.items()]
    return lines


def judged(recipe: str, folder: Path) -> str:
    """The largest error of the judged ranks over the tiny cases of a recipe, relative to the largest logit."""
    import numpy as np
    import torch

    from tests import reference

    tokens = np.random.default_rng(1).integers(0, 250, 24)
    worst, ranks = 0.0, set[int]()
    for case in (case for case in TINY if recipe_of(case) == recipe):
        checkpoint = folder / case.replace("/", "-")
        write_checkpoint(case, checkpoint)
        expected = reference.logits(checkpoint, torch.from_numpy(tokens)[None], torch.float32)[0].numpy()
        for tp in TPS:
            out = folder / f"{checkpoint.name}-tp{tp}"
            ask = Ask(tp=tp, dtype="float32", options=TrtllmOptions(version="0.21.0"))
            try:
                plan = convert_to(
                    PlanRequest(model=str(checkpoint), recipes=recipes, target="trtllm", ask=ask, cache=folder), out
                )
            except RefusedError:
                continue
            found = judge_of(out, plan.config, 1 << 30).logits(tokens)
            error = np.abs(found - expected).max() / np.abs(expected).max()
            worst, ranks = max(worst, float(error)), ranks | {tp}
    return f"{worst:.0e} (tp {' '.join(map(str, sorted(ranks)))})" if ranks else REFUSED


def table(errors: dict[str, str]) -> str:
    """Markdown; `errors` by recipe, as `judged` says them."""
    heads = (
        "recipe",
        "published model",
        *(f"`{name}`: tp" for name in CONVERTING),
        "`trtllm`: `--quant`",
        "judged error",
    )
    lines = [heads, tuple("---" for _ in heads)]
    lines += [(*row, errors[row[0].strip("`")]) for row in rows()]
    return "\n".join([BEGIN, *(f"| {' | '.join(line)} |" for line in lines), "", *refusals(), END])


def _recipe(model: str) -> str:
    return recipes.for_config(published.CONFIGS[model])[0]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        errors = {name: judged(name, Path(folder)) for name in recipes.available()}
    print(table(errors))


def in_text(text: str) -> tuple[str, dict[str, str]]:
    """The table that stands in a text, and its column of measured errors by recipe."""
    found = text[text.index(BEGIN) : text.index(END) + len(END)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines() if line[:1] == "|"]
    return found, {row[0].strip("`"): row[-1] for row in cells[2:]}


if __name__ == "__main__":
    main()
