"""Recipes: one file per architecture; the file name is the registration.

`torchtune` also installs a top-level package named `recipes`: the two cannot share an environment.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from compiler.errors import UnknownArchitecture
from compiler.model.recipe import Recipe


@cache
def available() -> tuple[str, ...]:
    """Names of all recipes, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@cache
def load(name: str) -> Recipe:
    """Recipe in `recipes/<name>.py`. Raises UnknownArchitecture without one."""
    if name not in available():
        raise UnknownArchitecture(f"no recipe is called `{name}`", hint=f"Recipes: {', '.join(available())}.")
    recipe: Recipe = importlib.import_module(f"recipes.{name}").RECIPE
    return recipe


def for_config(hf: Mapping[str, Any]) -> tuple[str, Recipe]:
    """Name and recipe of a config.json, by its `architectures`. Raises UnknownArchitecture where no recipe reads it."""
    wanted = hf.get("architectures") or []
    for name in available():
        if set(wanted) & set(load(name).hf_architectures):
            return name, load(name)
    known = sorted(a for name in available() for a in load(name).hf_architectures)
    near = difflib.get_close_matches(str(wanted[0]) if wanted else "", known, n=2)
    raise UnknownArchitecture(
        f"config.json names the architecture {', '.join(map(repr, wanted)) or 'none'}; no recipe reads it",
        hint=(f"Nearest: {', '.join(near)}. " if near else "")
        + f"Known: {', '.join(known)}. A new one is a file in `recipes/`.",
    )


def published(model: str) -> str | None:
    """Hugging Face id of a `--model` name that a recipe lists, or None."""
    for name in available():
        if model in load(name).models:
            return load(name).models[model]
    return None
