"""What an artifact says of the model that it was made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from compiler.artifact.manifest import Model
from compiler.storage.files.digest import canonical_json

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.storage.checkpoints.source import ResolvedSource


def model_of(found: ResolvedSource, recipe: str, config: ModelConfig, digest: str) -> Model:
    """`digest`: what stands for the source's bytes, see source.source_digest."""
    return Model(
        source="hub" if found.repo_id else "s3" if found.uri else "local",
        repo_id=found.repo_id,
        revision=found.commit,
        recipe=recipe,
        architecture=config.architecture,
        config=json.loads(canonical_json(config.to_json())),
        source_digest=digest,
    )


def default_name(found: ResolvedSource, recipe: str, target: str, tp: int, dtype: str) -> str:
    """`tiny-llama-inductor-tp2-bfloat16`: a hub's name of the model, else the recipe's."""
    short = found.repo_id.partition("/")[2] if found.repo_id else recipe
    return f"{short}-{target}-tp{tp}-{dtype}"
