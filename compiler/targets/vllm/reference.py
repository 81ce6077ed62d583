"""Log probabilities of a server against the project's own reference: the judge of the shards, in float32.

The judge computes what the source model computes (the build's step `judge` has compared them), so a server whose log
probabilities are the judge's serves the source model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compiler.errors import NumericsError

if TYPE_CHECKING:
    from collections.abc import Iterator

Reference = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Token ids int64 [tokens] -> logits float32 [tokens, vocab]."""

MEDIAN: Mapping[str, float] = {"bfloat16": 0.14, "float16": 0.02, "float32": 0.0045}
"""Largest median difference of log probabilities, by dtype: sqrt(2 KL) of the median KL that numerics/compare.py allows
(float32: sqrt(2 x 1e-5), since a server's attention accumulates in another order).
"""


def check_reference(answer: Mapping[str, Any], ids: Sequence[int], dtype: str, reference: Reference) -> float:
    """Median difference between the log probabilities of the tokens of a prompt in `answer` and the reference's.

    Raises NumericsError beyond MEDIAN.
    """
    logits = reference(np.asarray(ids, np.int64)).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = [abs(value - expected[place - 1, ids[place]]) for place, value in _of_prompt(answer, ids)]
    if len(found) < len(ids) - 1:
        raise NumericsError(
            f"expected log probabilities of {len(ids) - 1} tokens of a prompt, the server gave {len(found)}",
            hint="the server's answer has another form: report the version of vLLM",
        )
    median = float(np.median(found))
    if not median <= MEDIAN[dtype]:
        raise NumericsError(
            f"log probabilities of the server differ from the reference's by {median:.3g} (median of {len(found)}); "
            f"the limit for {dtype} is {MEDIAN[dtype]:g}",
            hint="vLLM reads these weights as another model; do not serve them, and report the architecture",
        )
    return median


def _of_prompt(answer: Mapping[str, Any], ids: Sequence[int]) -> Iterator[tuple[int, float]]:
    """Place and log probability of each token of the prompt but the first."""
    for place, entries in enumerate(answer["choices"][0].get("prompt_logprobs") or []):
        entry = (entries or {}).get(str(ids[place]))
        if place and entry is not None:
            yield place, float(entry["logprob"])
