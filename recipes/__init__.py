"""Recipes: one file per architecture; the file name is the registration.

`torchtune` also installs a top-level package named `recipes`: the two cannot share an environment.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from compiler.errors import UnknownArchitecture
from compiler.model.families import family_of, misspelled
from compiler.model.published import PublishedModel
from compiler.model.recipe import Recipe
from compiler.model.wrappers import text_part


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
    """Name and recipe of a config.json, by its `architectures` (a list, or one name), and by its `model_type` where
    that names none. Raises UnknownArchitecture where no recipe reads it, with what the architecture needs.
    """
    found = _reader(hf)
    if found is not None:
        return found, load(found)
    wanted = _architectures(hf)
    raise _wrapper(hf) or (_unknown(wanted[0]) if wanted else _unnamed(hf))


def published(model: str) -> str | None:
    """Hugging Face id of a `--model` name that a recipe lists, or None."""
    for name in available():
        if model in load(name).models:
            return load(name).models[model]
    return None


def published_model(repo_id: str) -> PublishedModel | None:
    """The published config of a Hugging Face id that comes along in `recipes/published`, or None."""
    return next((_published(name) for name, found in _sources().items() if found["model"] == repo_id), None)


@cache
def known() -> tuple[str, ...]:
    """Architectures that recipes read, sorted."""
    return tuple(sorted(one for name in available() for one in load(name).hf_architectures))


@cache
def _sources() -> dict[str, dict[str, Any]]:
    """Entries of the configs that come along: those with files of their own, and those that are `like` another."""
    return {**_published_file("sources"), **_published_file("derived")}


def _published_file(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "published" / f"{name}.json").read_bytes())
    return found


def _published(name: str) -> PublishedModel:
    own = _sources()[name]
    base = own.get("like", name)
    stored = _sources()[base].get("stored", "float32")
    return PublishedModel(
        own["model"], own["date"], own["found"], {**_published_file(base), **own.get("changes", {})}, stored
    )


def _architectures(hf: Mapping[str, Any]) -> list[str]:
    """Names in `architectures`; [] where it is absent, null or holds none."""
    named = hf.get("architectures")
    names = [named] if isinstance(named, str) else named
    return [one for one in names if isinstance(one, str)] if isinstance(names, list) else []


def _reader(hf: Mapping[str, Any]) -> str | None:
    """Name of the recipe that reads a config.json; None without one."""
    wanted = _architectures(hf)
    for name in available():
        recipe = load(name)
        if set(wanted) & set(recipe.hf_architectures) if wanted else hf.get("model_type") in recipe.model_types:
            return name
    return next((name for name in available() if set(wanted) & load(name).base_classes.keys()), None)


def _unnamed(hf: Mapping[str, Any]) -> UnknownArchitecture:
    found = f"`architectures` {hf.get('architectures')!r:.60} and `model_type` {hf.get('model_type')!r:.60}"
    return UnknownArchitecture(
        f"config.json names no architecture that a recipe reads: {found}",
        hint=f'set `"architectures": ["..."]` in it to the class of the model, or pass `--recipe`. {_all()}',
    )


def _unknown(wanted: str) -> UnknownArchitecture:
    """Error for an architecture without a recipe: a misspelled one, a known family, or an unknown one."""
    meant, family = misspelled(wanted, known()), family_of(wanted)
    if family is not None:
        return UnknownArchitecture(
            f"config.json names the architecture {wanted!r}, which needs {family.needs}; no recipe reads it",
            hint=f"{family.instead}. {_all()}",
        )
    text = f"config.json names the architecture {wanted!r}; no recipe reads it"
    if meant is not None:
        return UnknownArchitecture(text, hint=f"Nearest: {meant}, if this is a misspelling of it. {_all()}")
    return UnknownArchitecture(text, hint=f"{_all()} A new one is a file in `recipes/`.")


def _wrapper(hf: Mapping[str, Any]) -> UnknownArchitecture | None:
    """Error for a multimodal model, which names its text part; None for a model of text alone."""
    part = text_part(hf)
    wanted = _architectures(hf)
    if part is None or (wanted and family_of(wanted[0]) is not None):
        return None
    text = f"config.json describes {part.wrapper!r}, a multimodal model; its text part is {part.name}"
    reader = _reader(part.config)
    if reader is not None:
        return UnknownArchitecture(
            text, hint=f"`--text-only` builds the text part with recipe `{reader}` and leaves the rest out"
        )
    return UnknownArchitecture(
        f"{text}, which no recipe reads", hint=f"serve it with LMI's vLLM image (`option.rolling_batch=vllm`). {_all()}"
    )


def _all() -> str:
    return f"Known: {', '.join(known())}."
