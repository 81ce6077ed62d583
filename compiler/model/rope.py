"""Scaling of rotary positions to longer contexts, from config.json or from `--rope-scaling`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from compiler.errors import RefusedError, SourceError
from compiler.model.places import Place, lookup


@dataclass(frozen=True)
class RopeScaling:
    """Scaling of rotary frequencies to longer contexts.

    linear: every frequency / factor (Chen et al. 2023). llama3: long wavelengths / factor, short ones kept, a ramp
    between `low_freq_factor` and `high_freq_factor` turns within `original_max_positions` (Llama 3.1).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


def read_rope_scaling(hf: Mapping[str, Any], linear: Place, wish: RopeScaling | None) -> RopeScaling | None:
    """Scaling in config.json, else the user's `wish`. `linear`: place of a linear factor outside `rope_scaling`.

    Raises:
        SourceError: the scaling in config.json is incomplete.
        RefusedError: a kind that the decoder does not support, or a wish that contradicts the checkpoint.
    """
    found = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    kind = found.get("rope_type") or found.get("type") or "default"
    factor = lookup(hf, linear) or 1
    if factor != 1:
        kind, found = "linear", {"factor": factor}
    # Dynamic scaling has no effect up to max_positions, the limit of every build.
    if kind in ("default", "dynamic"):
        return wish
    if kind not in ("linear", "llama3"):
        raise RefusedError(
            f"rope scaling is one of linear, llama3, dynamic; this checkpoint uses {kind!r}",
            hint="Build a checkpoint of the same model with the base context length, which has no such scaling.",
        )
    try:
        scaling = RopeScaling(
            kind="linear" if kind == "linear" else "llama3",
            factor=float(found["factor"]),
            low_freq_factor=float(found.get("low_freq_factor", 1.0)),
            high_freq_factor=float(found.get("high_freq_factor", 4.0)),
            original_max_positions=int(found.get("original_max_position_embeddings", 8192)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"config.json: rope scaling {found!r} is incomplete: {error}", hint="complete it in config.json"
        ) from error
    if wish is not None and wish != scaling:
        raise RefusedError(
            f"the checkpoint was trained with rope scaling {scaling.kind}:{scaling.factor:g}, "
            f"`--rope-scaling` requests {wish.kind}:{wish.factor:g}",
            hint="Omit `--rope-scaling`: the checkpoint's own is used.",
        )
    return scaling


def parse_rope_scaling(text: str) -> RopeScaling:
    """Parse `linear:2`, `llama3:8`, or `llama3:8:1:4:8192` (factor, low, high, original positions)."""
    kind, _, rest = text.partition(":")
    numbers = rest.split(":") if rest else []
    try:
        if kind not in ("linear", "llama3") or not 1 <= len(numbers) <= (4 if kind == "llama3" else 1):
            raise ValueError
        factor, *more = (float(n) for n in numbers)
        if factor < 1:
            raise ValueError
        scaling = RopeScaling(kind="llama3" if kind == "llama3" else "linear", factor=factor)
        names = ("low_freq_factor", "high_freq_factor", "original_max_positions")
        changes: dict[str, Any] = dict(zip(names, more, strict=False))
        if "original_max_positions" in changes:
            changes["original_max_positions"] = int(changes["original_max_positions"])
        return replace(scaling, **changes)
    except ValueError:
        raise RefusedError(
            "`--rope-scaling` takes `linear:FACTOR` or `llama3:FACTOR[:LOW:HIGH:ORIGINAL]` with FACTOR >= 1; "
            f"found `{text}`",
            hint="for example `--rope-scaling linear:2`",
        ) from None
