"""What a user asks for, typed; and the first step of every answer: the plan, and what it is made from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compiler import targets
from compiler.errors import UsageError
from compiler.machine import gpus
from compiler.model.parallel import largest_parallel
from compiler.quantization.prequantized.formats import packed
from compiler.calibration.samples import looked_at
from compiler.quantization.prequantized.checkpoint import rewrite, will_be
from compiler.build.plan import Ask, Plan, make_plan
from compiler.storage.cache.stages import cache_folder
from compiler.storage.checkpoints.source import resolve
from compiler.targets.values import How

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from compiler.model.config import ModelConfig
    from compiler.model.recipe import Recipe
    from compiler.storage.checkpoints.checkpoint import Checkpoint
    from compiler.storage.checkpoints.source import Files, ResolvedSource


class Recipes(Protocol):
    """The package `recipes`, which nothing below the command line imports."""

    def available(self) -> tuple[str, ...]: ...
    def load(self, name: str) -> Recipe: ...
    def for_config(self, hf: Mapping[str, Any]) -> tuple[str, Recipe]: ...
    def published(self, model: str) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """Which model, and what of it. `model`: see storage/checkpoints/source.py. `devices`: tp becomes the most that fits on
    so many.
    """

    model: str
    recipes: Recipes
    ask: Ask = field(default_factory=Ask)
    revision: str | None = None
    recipe: str | None = None
    target: str = targets.DEFAULT
    devices: int | None = None
    cache: Path = field(default_factory=cache_folder)


@dataclass(frozen=True, kw_only=True)
class BuildRequest(PlanRequest):
    """`force` replaces another artifact at `output`; `rehash` trusts no digest computed before; `until`: of the
    target's stages; `shared_cache`: URI of a store with a stage cache behind the one in `cache`.
    """

    output: Path
    name: str | None = None
    tokenizer: Path | None = None
    how: How = field(default_factory=How)
    until: str = "verify"
    force: bool = False
    rehash: bool = False
    shared_cache: str | None = None


@dataclass(frozen=True)
class Found:
    """The model: where it is, which recipe (`name`) reads it, and what is asked of it with `tp` decided."""

    source: ResolvedSource
    checkpoint: Checkpoint
    name: str
    recipe: Recipe
    ask: Ask

    @property
    def config(self) -> ModelConfig:
        """Raises LmiCompileError where the recipe cannot read config.json."""
        hf = self.checkpoint.config
        return self.recipe.resolve(hf, self.ask.variant).model_config(hf, self.ask.rope_scaling)


@dataclass(frozen=True)
class Prepared:
    source: ResolvedSource
    checkpoint: Checkpoint
    plan: Plan


def find(
    request: PlanRequest, files: Files = "metadata", progress: Callable[[int, int, str], None] | None = None
) -> Found:
    """The model of a request; `files` "all" fetches the weights too, and rewrites those of a quantised checkpoint, of
    which `progress` is told. Raises LmiCompileError.
    """
    recipes = request.recipes
    known = [model for name in recipes.available() for model in recipes.load(name).models]
    model = recipes.published(request.model) or request.model
    source = resolve(model, request.revision, cache=request.cache / "sources", files=files, known=known)
    checkpoint = source.checkpoint(request.cache / "unpickled")
    how = packed(checkpoint.config)
    if how is not None:
        # A plan reads headers only.
        unpack = request.cache / "unpacked"
        checkpoint = (
            rewrite(checkpoint, how, unpack, request.ask.max_memory, progress)
            if files == "all"
            else will_be(checkpoint, how)
        )
    if request.recipe is None:
        name, recipe = recipes.for_config(checkpoint.config)
    else:
        name, recipe = request.recipe, recipes.load(request.recipe)
    found = Found(source, checkpoint, name, recipe, request.ask)
    if request.devices is not None:
        found = replace(found, ask=replace(request.ask, tp=largest_parallel(found.config, request.devices)))
    return found


def prepare(
    request: PlanRequest, files: Files = "metadata", progress: Callable[[int, int, str], None] | None = None
) -> Prepared:
    """The plan, and what it was made from; `files` and `progress`: see `find`. Raises LmiCompileError."""
    found = find(request, files, progress)
    source, target, ask = found.checkpoint, targets.load(request.target), found.ask
    # Which toolchains need a text for a scheme is known later.
    if ask.quant.asked and not ask.quant.text.digest:
        ask = replace(ask, quant=replace(ask.quant, text=looked_at(ask.quant.text)))
    plan = make_plan(found.name, found.recipe, target, source.config, source.tensors, ask)
    return Prepared(found.source, found.checkpoint, plan)


def default_output(model: str, target: str, tp: str, dtype: str | None, scheme: str = "") -> Path:
    """Where `build` puts an artifact when nothing is said: `artifacts/mixtral-inductor-tp8`."""
    words = [Path(model.rstrip("/")).name, target, f"tp{tp}", *([dtype] if dtype else [])]
    words += [scheme] if scheme else []
    return Path("artifacts") / "-".join(words)


def parse_size(text: str) -> int:
    """Bytes of `1GiB`, `512MiB`, `2 GB`, `1048576`. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i)?)?B?\s*", text, re.IGNORECASE)
    if match is None or not float(match[1]):
        raise UsageError(
            f"`{text}` is not a size", hint="a size is a number of bytes, or a number with MiB, GiB, MB or GB"
        )
    power = "KMGT".index(match[2].upper()) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parse_tp(text: str) -> int | None:
    """A number of ranks; None for `max`. Raises UsageError."""
    if text == "max":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"`--tp {text}`: expected a number from 1 up, or `max`", hint="pass `--tp 1` to begin with")
    return int(text)


def devices_here() -> int:
    """Accelerators of this machine, as the drivers list them. Raises UsageError where there are none."""
    found = len(gpus()[0])
    if not found:
        raise UsageError(
            "`--tp max` counts accelerators, and this machine has none",
            hint="pass `--instance-type ml.g5.12xlarge` (where the artifact will run), or `--tp N`",
        )
    return found
