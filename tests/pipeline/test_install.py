"""What stands at the output is never lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compiler.errors import UsageError
from compiler.pipeline.build import build
from compiler.pipeline.request import BuildRequest
from compiler.runtime.section import check_artifact
from tests.builds import Heard, leftovers, tree
from tests.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable


def test_another_artifact_is_replaced_only_by_force(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
    build(request_for(tp=2), toolchain=StandIn())
    before = tree(tmp_path / "artifact")
    toolchain = StandIn()
    with pytest.raises(UsageError, match="holds another artifact") as caught:
        build(request_for(tp=4), toolchain=toolchain)
    assert "--force" in caught.value.hint
    assert toolchain.compiled == []
    assert tree(tmp_path / "artifact") == before
    result = build(request_for(tp=4, force=True), toolchain=StandIn())
    assert result.manifest is not None
    assert check_artifact(tmp_path / "artifact", by="sha256").parallel.tp == 4
    assert leftovers(tmp_path) == []


def test_replacing_works_without_exchanging(
    request_for: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(request_for(tp=2), toolchain=StandIn())
    monkeypatch.setattr("compiler.storage.files.folder._exchange", lambda *_: False)
    build(request_for(tp=4, force=True), toolchain=StandIn())
    assert check_artifact(tmp_path / "artifact", by="sha256").parallel.tp == 4
    assert leftovers(tmp_path) == []


def test_a_damaged_artifact_is_put_right_without_force(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    build(request_for(), toolchain=StandIn())
    before = tree(tmp_path / "artifact")
    (tmp_path / "artifact/weights/rank1.safetensors").unlink()
    heard = Heard()
    build(request_for(), heard, toolchain=StandIn())
    assert "weights/rank1.safetensors: missing" in heard.warnings[0]
    assert tree(tmp_path / "artifact") == before


def test_a_folder_that_is_no_artifact_is_never_replaced(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    precious = tmp_path / "artifact"
    precious.mkdir()
    build(request_for(until="plan"), toolchain=StandIn())  # an empty folder is no obstacle
    (precious / "thesis.tex").write_text("years")
    for force in (False, True):
        with pytest.raises(UsageError, match="is not an artifact"):
            build(request_for(force=force), toolchain=StandIn())
    assert tree(precious).keys() == {"thesis.tex"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        build(request_for(output=tmp_path / "file", force=True), toolchain=StandIn())
