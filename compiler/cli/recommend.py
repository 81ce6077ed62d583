"""Recommendation of containers and instance types: recommend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compiler.cli.groups import grouped
from compiler.cli.options import DEFAULT_BATCH, Json, ModelOptions
from compiler.cli.output import show

if TYPE_CHECKING:
    from compiler.lmi.images import Release


@grouped
def recommend(
    model: ModelOptions,
    instance_type: Annotated[str | None, typer.Option(help="Instance type [default: the smallest that fit]")] = None,
    batch: Annotated[int, typer.Option("--batch", "--max-batch", help="Rows of a batch.", min=1)] = DEFAULT_BATCH,
    length: Annotated[
        int | None,
        typer.Option("--length", "--max-positions", help="Tokens of a row [default: 4096 at most]"),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float16 or float32 [default: the checkpoint's]")] = None,
    lmi_version: Annotated[str, typer.Option(help="LMI release, such as 0.26 [default: those of today]")] = "",
    prices: Annotated[
        Path | None, typer.Option(help="JSON object with the price of an hour by instance type.", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recommend container, tp and copies for a model."""
    from compiler.cli.options import model_fields
    from compiler.cli.recommend_text import recommendations_text
    from compiler.errors import UsageError
    from compiler.pipeline.recommend import parse_prices
    from compiler.pipeline.recommend import recommend as run
    from compiler.pipeline.request import Ask, PlanRequest

    try:
        known = parse_prices(prices.read_bytes(), str(prices)) if prices else {}
    except OSError as error:
        raise UsageError(f"cannot read {prices}: {error.strerror}", hint="name a readable file") from None
    request = PlanRequest(
        **model_fields(model),
        ask=Ask(dtype=dtype, max_batch=batch, max_positions=length, variant=model.variant),
        instance_type=instance_type,
    )
    found = run(request, _release(lmi_version), known)
    show([one.to_json() for one in found], recommendations_text(found), as_json=as_json)


def _release(text: str) -> Release | None:
    """Release of `--lmi-version`; None for "". Raises UsageError."""
    from compiler.errors import UsageError
    from compiler.lmi.images import parse_release
    from compiler.pipeline.decision import known_releases

    if not text:
        return None
    found, known = parse_release(text), known_releases()
    if found not in known:
        names = ", ".join(f"{major}.{minor}" for major, minor in known)
        raise UsageError(f"`--lmi-version` is one of {names}; found `{text}`", hint="leave it out for those of today")
    return found
