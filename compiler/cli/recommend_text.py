"""Text of recommendations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.report import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.pipeline.recommend import Choice, Recommendation


def recommendations_text(found: Sequence[Recommendation]) -> str:
    """Text of recommendations: one in full, several as a table with the commands of the first."""
    if len(found) == 1:
        return _whole(found[0])
    rows = [(*_row(one.options[0]), "" if one.price is None else f"{one.price:g} an hour") for one in found]
    first = found[0].options[0]
    return "\n\n".join(
        [table(rows, ("instance type", "container", "tp", "copies", "a device", "")), _next(first)],
    )


def _whole(found: Recommendation) -> str:
    one = found.instance
    devices = f"{one.devices} x {one.accelerator}, " if one.devices else ""
    price = "" if found.price is None else f", {found.price:g} an hour"
    parts = [f"{one.name}: {devices}{one.vcpus} vCPUs, {one.ram:g} GiB{price}"]
    for option in found.options:
        rows = [
            ("container", f"{option.backend.name}{f' ({option.backend.image})' if option.backend.image else ''}"),
            ("why", option.backend.why),
            ("fits", option.fit.text),
            ("memory", option.fit.demand.text),
            ("rows", f"at most {option.fit.most_rows} of {option.fit.demand.length} tokens a copy"),
            *((f"tp {tp}", text) for tp, text in option.tried),
        ]
        parts.append(table(rows))
    if found.rejected:
        parts.append(table([(name, reason) for name, reason in found.rejected], ("does not fit", "")))
    return "\n\n".join([*parts, _next(found.options[0])])


def _row(option: Choice) -> tuple[str, str, str, str, str]:
    fit = option.fit
    text = fit.text.rpartition(", ")[2]
    return (fit.instance.name, option.backend.name, str(option.tp), str(fit.copies), text)


def _next(option: Choice) -> str:
    return f"next:\n  {option.build}\n  {option.deploy}"
