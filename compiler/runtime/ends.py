"""Ids that end an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compiler.errors import ArtifactError


def end_ids(folder: Path) -> frozenset[int]:
    """Ids that end an answer: `eos_token_id` of generation_config.json, else of config.json; a number or a list."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            found: Any = json.loads(path.read_bytes()).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise ArtifactError(
                f"{path}: expected a JSON object: {error}", hint="copy or build the artifact again"
            ) from error
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()
