"""A packed tokenizer as a server loads it: by AutoTokenizer, in a process of its own, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from compiler.tokenizer.load import load_tokenizer
from compiler.tokenizer.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TEXTS = ("The harbor was quiet", "", "Zürich, 日本 and 👩‍👩‍👧", "  two  blanks\n\tand lines", "f(x) = 12345")
"""Texts that are encoded both ways; the special tokens of the settings are added to them."""
SECONDS = 120
_PROGRAM = (
    "import json, sys\n"
    "import transformers\n"
    "made = transformers.AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False, local_files_only=True)\n"
    "ids = [made.encode(text, add_special_tokens=False) for text in json.load(sys.stdin)]\n"
    'print("\\n" + json.dumps([transformers.__version__, ids]))\n'
)


def fresh_notes(folder: Path) -> list[str]:
    """Differences between AutoTokenizer and this project's reader on the tokenizer in `folder`, one line each; tokens
    around a prompt are not compared (see edges.py).
    """
    own = load_tokenizer(folder)
    if own is None:
        return [f"{folder.name} has no tokenizer that is read"]
    texts = [*TEXTS, *(f"a{token.content}b" for token in read_settings(folder).extra)]
    try:
        version, found = _encoded(folder, texts)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return [f"transformers cannot load the packed tokenizer by AutoTokenizer: {_reason(error)}"]
    return [
        f"AutoTokenizer of transformers {version} encodes {text!r:.40} of the packed tokenizer as {theirs[:8]}; "
        f"its files say {ours[:8]}"
        for text, theirs in zip(texts, found, strict=True)
        if theirs != (ours := own.encode(text, special=False))
    ][:3]


def _encoded(folder: Path, texts: Sequence[str]) -> tuple[str, list[list[int]]]:
    """Version of transformers, and ids of each text without tokens around it. Raises OSError, SubprocessError."""
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
    )
    version, ids = json.loads(ran.stdout.splitlines()[-1])
    return str(version), ids


def _reason(error: Exception) -> str:
    """Last line that the process wrote, or the error itself."""
    lines = error.stderr.strip().splitlines() if isinstance(error, subprocess.CalledProcessError) else []
    return (lines[-1] if lines else str(error))[:300]
