"""Architectures that a target has no row for: their refusal is what is tested of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from compiler.errors import RefusedError

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.targets.options import TargetOptions
    from compiler.targets.protocols import Target


def without_row(target: Target[Any], config: ModelConfig, options: TargetOptions | None = None) -> str:
    """The reason why `target` takes no model of this architecture; "" where it has a row for it.

    What it refuses by a model's sizes and kinds, or by its version, is another matter and not looked at.
    """
    try:
        target.support.check(config, 1, options or target.options())
    except RefusedError as error:
        found = re.search(rf"does not support {re.escape(config.architecture)}: (.+)", error.message)
        return found[1] if found else ""
    return ""


def refused(config: ModelConfig, reason: str) -> pytest.RaisesExc[RefusedError]:
    """Expect the refusal of the architecture, with its name, the reason, and what the target takes instead."""
    return pytest.raises(
        RefusedError,
        match=rf"does not support {re.escape(config.architecture)}: {re.escape(reason)}",
        check=lambda error: bool(error.hint),
    )
