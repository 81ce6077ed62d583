"""Section of a target in manifest.json: base class, and lookup of each target's class.

A target's class is `SECTION` of `compiler.targets.<target>.section`, looked up by name, since this package may not
import targets.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from compiler.errors import ArtifactError
from compiler.quantization.schemes import CACHES, HEADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from compiler.artifact.manifest import Manifest


def _inside(path: str) -> str:
    """Check a path: relative, normalized, with `/`, inside the artifact. Raises ValueError."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path or path == ".":
        raise ValueError(f"expected a relative path inside the artifact, found {path!r}")
    return path


InnerPath = Annotated[str, Field(min_length=1), AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


def _one_of(formats: Iterable[str], what: str) -> tuple[AfterValidator, WithJsonSchema]:
    """Check and schema of a number format of `what`; "" is one, too."""
    known = ["", *formats]

    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f'expected a format of {what} ({", ".join(known[1:])}) or "", found {name!r}')
        return name

    return AfterValidator(check), WithJsonSchema({"enum": known, "type": "string"})


CacheFormat = Annotated[str, *_one_of(CACHES, "KV caches")]
"""Number format of a KV cache; "": the dtype of the model."""
HeadFormat = Annotated[str, *_one_of(HEADS, "heads")]
"""Number format of the head's matrix; "": the dtype of the model."""


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Section(BaseModel):
    """Base class, and section of a target that is not installed: its fields are kept unchanged.

    A target's class forbids unknown fields and overrides the properties.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    @property
    def paths(self) -> tuple[str, ...]:
        """Files that the artifact must have."""
        return self.rank_files

    @property
    def rank_files(self) -> tuple[str, ...]:
        """File of each rank, in rank order; () where there are none."""
        return ()

    @property
    def image_tag(self) -> str | None:
        """Tag of the container image that serves the artifact."""
        return None

    @property
    def unfinished(self) -> str:
        """Instruction that finishes the artifact; "" where it is complete."""
        return ""

    def facts(self) -> Sequence[tuple[str, str]]:
        """Lines of `inspect`: subject and text."""
        return ()

    def check(self, tp: int) -> None:
        """Check consistency with itself and the number of tensor-parallel ranks. Raises ValueError."""


@cache
def section_class(target: str) -> type[Section]:
    """Class of a target's section; `Section` for a target that is not installed."""
    if not target.isidentifier():  # the name comes from a file: import nothing outside compiler.targets
        return Section
    module = f"compiler.targets.{target}.section"
    try:
        missing = importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        missing = True
    return Section if missing else cast("type[Section]", importlib.import_module(module).SECTION)


def section_of(target: str, fields: dict[str, Any]) -> Section:
    """Section from its JSON fields. Raises pydantic.ValidationError."""
    return section_class(target).model_validate_json(json.dumps(fields))


S = TypeVar("S", bound=Section)


def section_as(manifest: Manifest, kind: type[S], target: str) -> S:
    """Section of a manifest as the class of `target`. Raises ArtifactError if it is another target's."""
    if isinstance(manifest.section, kind):
        return manifest.section
    raise ArtifactError(
        f"`{manifest.name}`: expected the section of target `{target}`; found target `{manifest.target}`",
        hint=f"use an artifact that was built with `--target {target}`",
    )
