"""The target's section of manifest.json: the base class, and the class of each target.

A target's class is `SECTION` of `compiler.targets.<target>.section`, found by its name: this package lies below the
targets and imports none of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from compiler.quantization.schemes import CACHES

if TYPE_CHECKING:
    from collections.abc import Sequence


def _inside(path: str) -> str:
    """A path of the artifact: relative, `/` between parts, inside the folder, in one spelling."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path or path == ".":
        raise ValueError(f"expected a relative path inside the artifact, found {path!r}")
    return path


InnerPath = Annotated[str, Field(min_length=1), AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


def _cache_format(name: str) -> str:
    if name and name not in CACHES:
        raise ValueError(f"expected a format of KV caches ({', '.join(CACHES)}) or nothing, found {name!r}")
    return name


CacheFormat = Annotated[str, AfterValidator(_cache_format), WithJsonSchema({"enum": ["", *CACHES], "type": "string"})]
"""Number format of a KV cache; "": the dtype of the model."""


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Section(BaseModel):
    """The section of a target that this installation lacks: its fields are kept as they are.

    A target's own class forbids other fields and overrides what it knows of them.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    @property
    def paths(self) -> tuple[str, ...]:
        """Files that have to be in the artifact."""
        return self.rank_files

    @property
    def rank_files(self) -> tuple[str, ...]:
        """The file of each rank, in rank order; () where there are none."""
        return ()

    @property
    def image_tag(self) -> str | None:
        """Tag of the serving container that the artifact is packed for."""
        return None

    @property
    def unfinished(self) -> str:
        """Remedy that finishes the artifact; "" where it is finished."""
        return ""

    def facts(self) -> Sequence[tuple[str, str]]:
        """Lines of `inspect`: subject and text."""
        return ()

    def check(self, tp: int) -> None:
        """Raises ValueError where the section contradicts itself or the number of tensor-parallel ranks."""


@cache
def section_class(target: str) -> type[Section]:
    """The class of a target's section; `Section` for a target that is not installed."""
    if not target.isidentifier():  # it comes from a file: nothing but a target's own folder is imported for it
        return Section
    module = f"compiler.targets.{target}.section"
    try:
        missing = importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        missing = True
    return Section if missing else cast("type[Section]", importlib.import_module(module).SECTION)


def section_of(target: str, fields: dict[str, Any]) -> Section:
    """The section with these fields of JSON. Raises pydantic.ValidationError."""
    return section_class(target).model_validate_json(json.dumps(fields))
