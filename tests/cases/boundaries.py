"""Files that one reader accepts and another does not, and the boundaries that catch everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cases.case import case
from tests.cases.checkpoints import write
from tests.cases.runs import plan, refused, taken

if TYPE_CHECKING:
    from pathlib import Path


@case(55, "config.json with a trailing comma")
def trailing_comma(folder: Path) -> None:
    """A file that is not JSON is named, with the place."""
    model = write(folder / "model")
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text.rstrip().removesuffix("}").rstrip() + ",\n}\n")
    refused(plan(model), 3, "config.json is not JSON")


@case(55, "Infinity in a key that nothing reads")
def infinity(folder: Path) -> None:
    """Python's and JavaScript's spelling of infinity is accepted."""
    taken(plan(write(folder / "model", {"unread": float("inf")})), "LlamaForCausalLM")
