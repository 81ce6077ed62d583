from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.testbed import artifacts
from benchmarks.testbed.artifacts import write_random
from compiler.errors import NotFoundError
from compiler.registry.difference import Change, diff
from compiler.registry.layout import LAYOUTS
from compiler.registry.listing import listing
from compiler.registry.push import push
from compiler.registry.refs import promote
from compiler.registry.summary import difference_text, listing_text
from compiler.storage.objects import open_store


def test_listing_of_a_store(tmp_path: Path, store: str) -> None:
    one, two = write_random(tmp_path / "a", 1), write_random(tmp_path / "b", 2)
    first = push(one, f"{store}tiny@v1", layout="plain")
    second = push(two, f"{store}tiny@v2", layout="cas")
    push(one, f"{store}other@v1")
    promote(f"{store}tiny@v2")
    open_store(store).put(f"tiny/{'0' * 64}/weights/half", b"of a push that is running")
    lines = {(line.name, line.digest): line for line in listing(store)}
    assert len(lines) == 3
    found = lines["tiny", second.digest]
    assert (found.tags, found.layout, found.tp, found.files) == (("current", "v2"), "cas", 2, 5)
    assert lines["tiny", first.digest].tags == ("v1",)
    assert {line.digest for line in listing(f"{store}tiny")} == {first.digest, second.digest}
    assert [line.digest for line in listing(f"{store}tiny@current")] == [second.digest]
    assert second.digest[7:19] in listing_text(listing(store))
    with pytest.raises(NotFoundError):
        listing(f"{store}nothing")


def test_a_local_store_may_hold_other_things(tmp_path: Path, local_store: str) -> None:
    write_random(Path(local_store) / "built-here")
    assert listing(local_store) == []
    assert listing_text([]) == "empty"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_how_two_differ(tmp_path: Path, local_store: str, layout: str) -> None:
    one = write_random(tmp_path / "a", 1)
    push(one, f"{local_store}tiny@v1", layout=layout)  # type: ignore[arg-type]  # of LAYOUTS
    two = write_random(tmp_path / "b", 2, toolchain={"torch": "2.14.0", "cxx": "g++ 12.2.0"}, target="inductor")
    found = diff(f"{local_store}tiny@v1", str(two))
    assert found.changes[0] == Change("toolchain.torch", "2.13.0+cpu", "2.14.0")
    assert [change.field for change in found.changes[1:]] == [
        "files.weights/rank0.safetensors",
        "files.weights/rank1.safetensors",
    ]
    assert (found.same, found.nbytes_changed) == (len(artifacts.CONTENT) - 2, 800)
    assert "toolchain.torch" in difference_text(found)
    assert diff(str(one), f"{local_store}tiny@v1").changes == ()
