"""Typed requests: which model, what is made of it, and what making it may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compiler.quantization.request import NONE, Quant
from compiler.storage.cache.stages import cache_folder
from compiler.targets import DEFAULT
from compiler.targets.values import How

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.model.published import PublishedModel
    from compiler.model.recipe import Recipe
    from compiler.model.rope import RopeScaling
    from compiler.targets.options import TargetOptions


class Recipes(Protocol):
    """The package `recipes`, which nothing below the command line imports."""

    def available(self) -> tuple[str, ...]: ...
    def load(self, name: str) -> Recipe: ...
    def for_config(self, hf: Mapping[str, Any]) -> tuple[str, Recipe]: ...
    def published(self, model: str) -> str | None: ...
    def published_model(self, repo_id: str) -> PublishedModel | None: ...


@dataclass(frozen=True)
class Ask:
    """Everything that decides the bytes of an artifact, beside the model. `dtype` None: the checkpoint's own;
    `options` None: the target's defaults.
    """

    tp: int = 1
    dtype: str | None = None
    max_positions: int | None = None
    max_batch: int = 8
    rope_scaling: RopeScaling | None = None
    variant: str | None = None
    options: TargetOptions | None = None
    quant: Quant = NONE


@dataclass(frozen=True)
class Resources:
    """Limits of a build; they decide no byte. `max_memory`: ceiling of the buffers of a step, in bytes. `jobs`: compile
    processes at a time, `timeout`: seconds for one of them; None: the target's default. `shared_cache`: URI of a store
    with a stage cache behind the one on this machine.
    """

    max_memory: int = 1 << 30
    jobs: int | None = None
    timeout: float | None = None
    shared_cache: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """`model`: a name, a Hugging Face id, a folder or an s3:// prefix (storage/checkpoints/resolve.py). `recipe`: the
    name of one; None: the one for its config.json. `text_only`: the text part of a multimodal model.
    `instance_type`: where it will run, which must have room for it; None: unknown. `offline`: do not ask the hub.
    `cache`: folder for everything that is kept between commands.
    """

    model: str
    recipes: Recipes
    ask: Ask = field(default_factory=Ask)
    resources: Resources = field(default_factory=Resources)
    revision: str | None = None
    recipe: str | None = None
    text_only: bool = False
    target: str = DEFAULT
    instance_type: str | None = None
    offline: bool = False
    cache: Path = field(default_factory=cache_folder)


@dataclass(frozen=True, kw_only=True)
class BuildRequest(PlanRequest):
    """`device`, `march`: hardware that the artifact is compiled for; None: the target's default. `until`: last of the
    target's stages to run. `force` replaces another artifact at `output`; `rehash` trusts no digest computed before.
    """

    output: Path
    name: str | None = None
    tokenizer: Path | None = None
    device: str | None = None
    march: str | None = None
    until: str = "verify"
    force: bool = False
    rehash: bool = False

    @property
    def how(self) -> How:
        """The request as a target's toolchain takes it."""
        return How(self.device, self.march, self.resources.jobs, self.resources.timeout)
