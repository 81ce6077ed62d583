"""One timed answer by a fresh process, as at the start of a container.

Command: `python -m compiler.runtime.once ARTIFACT PROMPT MAX_NEW_TOKENS`. Prints one JSON object. The prompt "" stands
for three token ids, for an artifact without a tokenizer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from compiler.errors import LmiCompileError, boundary
from compiler.runtime.generate import load
from compiler.runtime.lean import import_torch
from compiler.runtime.params import GenerationParams

_IDS = (0, 1, 2)


def answer_once(artifact: Path, prompt: str, max_new_tokens: int) -> dict[str, Any]:
    """Load the artifact and answer greedily. `seconds_to_load` includes the import of torch. Raises LmiCompileError."""
    began = time.monotonic()
    import_torch()
    with load(artifact) as model:
        loaded = time.monotonic()
        (done,) = model.generate([prompt or list(_IDS)], GenerationParams(max_new_tokens=max_new_tokens))
        ended = time.monotonic()
    return {
        "seconds_to_load": loaded - began,
        "seconds_to_first_token": done.seconds_to_first_token,
        "seconds_to_answer": ended - loaded,
        "prompt_tokens": done.prompt_tokens,
        "new_tokens": len(done.tokens),
        "finish_reason": done.finish_reason,
        "log_prob": done.log_prob,
        "text": done.text,
    }


if __name__ == "__main__":
    try:
        with boundary(input=sys.argv[1]):
            print(json.dumps(answer_once(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
    except LmiCompileError as error:
        print(error.message, error.log, sep="\n", file=sys.stderr)
        sys.exit(error.exit_code)
