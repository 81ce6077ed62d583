"""The value of `--rope-scaling`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from compiler.errors import RefusedError, SourceError
from compiler.model.rope import ORIGINAL, RopeScaling, parsed

FORMS = "linear:FACTOR, dynamic:FACTOR, yarn:FACTOR[:ORIGINAL], llama3:FACTOR[:LOW:HIGH:ORIGINAL] or a JSON object"
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "linear": (),
    "dynamic": (),
    "yarn": (ORIGINAL,),
    "llama3": ("low_freq_factor", "high_freq_factor", ORIGINAL),
}
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, ORIGINAL: 8192}
"""Llama 3.1's published numbers."""


def parse_rope_scaling(text: str) -> RopeScaling:
    """Parse `linear:2`, `llama3:8:1:4:8192` (factor, low, high, original positions), `yarn:4:32768`, or a JSON object
    with the keys of config.json's `rope_scaling`, the form for longrope. Raises RefusedError.
    """
    kind, _, rest = text.partition(":")
    try:
        if text.lstrip().startswith("{"):
            section = json.loads(text)
        else:
            numbers = [float(number) for number in rest.split(":")]
            if kind not in _FIELDS or not 1 <= len(numbers) <= 1 + len(_FIELDS[kind]) or numbers[0] < 1:
                raise ValueError
            given = dict(zip(("factor", *_FIELDS[kind]), numbers, strict=False))
            section = {"rope_type": kind, **(_LLAMA3 if kind == "llama3" else {}), **given}
        scaling = parsed(section, "`--rope-scaling`")
        if scaling is None:
            raise ValueError
    except (ValueError, RecursionError):
        raise RefusedError(
            f"`--rope-scaling` takes {FORMS} with FACTOR >= 1; found `{text:.80}`",
            hint="for example `--rope-scaling linear:2`",
        ) from None
    except SourceError as error:
        raise RefusedError(error.message, hint=f"`--rope-scaling` takes {FORMS}") from None
    return scaling
