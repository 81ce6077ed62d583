"""Commands about lmi-compile itself: models, doctor."""

from __future__ import annotations

from typing import Any

from compiler.cli.options import Json
from compiler.cli.output import show


def models(as_json: Json = False) -> None:
    """List recipes, architectures, models and quantization schemes.

    The names of models are those that `--model` takes; the second table has the schemes of each target.
    """
    import recipes
    from compiler import targets
    from compiler.cli.text import models_text, option_text
    from compiler.pipeline.support import refusals

    loaded = {name: recipes.load(name) for name in recipes.available()}
    refused = {
        name: {target: refusals(recipe, targets.load(target)) for target in targets.available()}
        for name, recipe in loaded.items()
    }
    rows: list[dict[str, Any]] = [
        {
            "recipe": name,
            "architectures": list(recipe.hf_architectures),
            "models": dict(recipe.models),
            "targets": {
                target: {option_text(quant): reason for quant, reason in found.items()}
                for target, found in refused[name].items()
            },
        }
        for name, recipe in loaded.items()
    ]
    show(rows, models_text(loaded, refused), as_json=as_json)


def doctor(as_json: Json = False) -> None:
    """Check which targets this machine builds and runs, or why not."""
    from dataclasses import asdict

    from compiler.cli.text import diagnosis_text
    from compiler.deploy.doctor import doctor as look
    from compiler.storage.cache.stages import cache_folder

    diagnosis = look(cache_folder())
    show(asdict(diagnosis), diagnosis_text(diagnosis), as_json=as_json)
