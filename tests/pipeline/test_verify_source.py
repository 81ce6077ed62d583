"""`verify --model`: which model an artifact was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compiler.errors import SourceError
from compiler.numerics.passages import REFERENCE, read_reference
from compiler.pipeline.build import build
from compiler.pipeline.request import BuildRequest, PlanRequest
from compiler.pipeline.verify_source import source_logits
from tests.pipeline.test_reference import Real, exact

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def artifact(request_for: Callable[..., BuildRequest]) -> Path:
    return build(request_for(), toolchain=Real(), logits=exact).output


def _changed(artifact: Path, **changes: Any) -> Path:
    """As schema 1 was upgraded: without a writer, with a plan digest that earlier versions computed; and `changes`."""
    file = artifact / "manifest.json"
    data = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps({**data, "writer": "", "plan_digest": "sha256:" + 64 * "0", **changes}))
    return artifact


def _same(request: BuildRequest, **changes: Any) -> PlanRequest:
    return PlanRequest(**{"model": request.model, "recipes": request.recipes, "cache": request.cache, **changes})


def test_an_artifact_of_an_earlier_version_is_recognized_by_its_facts(
    artifact: Path, request_for: Callable[..., BuildRequest]
) -> None:
    found = source_logits(_changed(artifact), _same(request_for()))
    for row, stored in zip(found.straight.logits, read_reference(artifact / REFERENCE).straight.logits, strict=True):
        np.testing.assert_array_equal(row, stored)


def test_facts_that_differ_are_named(
    artifact: Path, request_for: Callable[..., BuildRequest], tiny_checkpoint: Callable[[str], Path]
) -> None:
    model = json.loads((artifact / "manifest.json").read_text())["model"]
    with pytest.raises(SourceError, match=r"their source digest differs$"):
        source_logits(_changed(artifact, model={**model, "source_digest": "sha256:" + 64 * "1"}), _same(request_for()))
    wider = {**model, "config": {**model["config"], "rope_theta": 5e5}}
    with pytest.raises(SourceError, match=r"was not made of .*: their config differs$"):
        source_logits(_changed(artifact, model=wider), _same(request_for()))
