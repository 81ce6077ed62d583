"""Logits of a model by vLLM without compilation, in vLLM's own environment: numpy, vLLM and the standard library.

Command: `python logits.py INPUT.json OUTPUT.npz`. Input: `model`, `arguments` of `vllm.LLM`, `rows` (token ids),
`vocab`. Output: an array float32 [tokens, vocab] for each row, `arr_0` ...: log probabilities of the next token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(source: Path, output: Path) -> None:
    """Compute the rows of the input, and write the arrays."""
    from vllm import LLM, SamplingParams

    asked = json.loads(source.read_text())
    engine = LLM(asked["model"], enforce_eager=True, max_logprobs=-1, **asked["arguments"])
    # The answer's own first token has the log probabilities behind the last token of the row.
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=-1, logprobs=-1, detokenize=False)
    answers = engine.generate([{"prompt_token_ids": row} for row in asked["rows"]], params)
    vocab = asked["vocab"]
    arrays = [
        np.stack([_dense(place, vocab) for place in (*answer.prompt_logprobs[1:], answer.outputs[0].logprobs[0])])
        for answer in answers
    ]
    np.savez(output, *arrays)


def _dense(place: Any, vocab: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    found = np.full(vocab, -np.inf, np.float32)
    for token, entry in place.items():
        if token < vocab:
            found[token] = entry.logprob
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
