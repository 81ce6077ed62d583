"""Conversion of manifests of schema version 1 to version 2.

version 1    "segments": {...} or "engines": {...}, the other null         no "writer"
version 2    "section": {...}, whose class follows from "target"           "writer": version of lmi-compile
"""

from __future__ import annotations

import json
from typing import Any

_SECTIONS = ("segments", "engines")


def upgraded(data: bytes) -> bytes:
    """Convert a manifest of version 1 to JSON of version 2, whose validation finds other faults."""
    fields: dict[str, Any] = json.loads(data)
    found = [fields[name] for name in _SECTIONS if fields.get(name) is not None]
    if len(found) == 1 and "section" not in fields:
        fields = {key: value for key, value in fields.items() if key not in _SECTIONS} | {"section": found[0]}
    return json.dumps({**fields, "schema_version": 2}).encode()
