"""Ids that end an answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from compiler.errors import ArtifactError, SourceError
from compiler.model.ends import ends_in
from compiler.model.wrappers import text_part

if TYPE_CHECKING:
    from pathlib import Path

_HINT = "copy or build the artifact again"


def end_ids(folder: Path) -> frozenset[int]:
    """Ids that end an answer: `eos_token_id` of generation_config.json, else of config.json, or of its text part.

    Raises ArtifactError.
    """
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            config = json.loads(path.read_bytes())
            if not isinstance(config, dict):
                raise ArtifactError(f"{path}: expected a JSON object, found {type(config).__name__}", hint=_HINT)
            found = ends_in(config, str(path))
            part = text_part(config) if found is None else None
            found = ends_in(part.config, str(path)) if part is not None else found
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{path}: expected a JSON object: {error}", hint=_HINT) from error
        except SourceError as error:
            raise ArtifactError(error.message, hint=_HINT) from error
        if found is not None:
            return found
    return frozenset()
