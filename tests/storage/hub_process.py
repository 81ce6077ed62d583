"""Programs in fresh processes that find a hub of tests/hub.py: huggingface_hub reads its settings at import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hub import Hub


def answer(server: Hub, home: Path, program: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run `program` with `arguments`; the JSON object that it prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**clean, **server.environment(home), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found
