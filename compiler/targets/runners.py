"""Execution of an artifact on this machine by its target's runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from compiler.errors import IncompatibleError

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Manifest
    from compiler.runtime.generate import Model
    from compiler.runtime.params import Completion, GenerationParams


DECODED = 16
"""Tokens at the end of a verified row that go through decode steps."""


def decoded(rows: Sequence[Sequence[int] | NDArray[np.int64]]) -> int:
    """Number of tokens at the end of each of `rows` that go through decode steps; one at least goes through prefill."""
    return min(DECODED, *(len(row) - 1 for row in rows), DECODED)


class Answering:
    """Base class of what answers prompts with an artifact."""

    streams: bool = True
    """Whether `load` gives a model that answers token by token; False: only `answers` answers prompts."""

    def load(self, folder: Path) -> Model:
        """Model, ready to generate. Raises ArtifactError, IncompatibleError, RankError."""
        from compiler.artifact.manifest import load_manifest
        from compiler.runtime.section import served_elsewhere

        raise served_elsewhere(load_manifest(folder).name)

    def answers(
        self, folder: Path, prompts: Sequence[str], params: GenerationParams
    ) -> tuple[Sequence[Completion], Sequence[str]]:
        """Answers to prompts in their order, and warnings. Raises what `load` and `Model.generate` raise."""
        with self.load(folder) as model:
            return model.generate(prompts, params), ()

    own_server: str = ""
    """Name of the toolchain's own server, which `serve` runs; "": this project's server answers, from `load`."""

    def serve(self, folder: Path, host: str, port: int, ready: Callable[[str], None], stop: Event) -> None:
        """Serve with the toolchain's own server until `stop` is set. `ready(url)`: it answers.

        Raises LmiCompileError.
        """
        raise NotImplementedError(f"{type(self).__name__} has no server of its own")

    def once(self, folder: Path, prompt: str, max_new_tokens: int) -> Sequence[str]:
        """Command line of a fresh process that loads the artifact, answers once and prints one JSON object:
        `seconds_to_load`, `seconds_to_first_token`, `finish_reason` and more. `prompt` "": it chooses token ids.
        """
        raise IncompatibleError(f"{folder} cannot answer here", hint="deploy it with the image that serves it")


class Runner(Answering):
    """Base class of runners. `verify` needs only `logits`."""

    reference: Literal["source", "rank files"] = "source"
    """Reference of its logits: the source model's, or those of the artifact's rank files in float32."""
    computes: bool = True
    """Whether it has `logits`."""
    caches: tuple[str, ...] = ()
    """Environment variables of caches that must be empty after `once`, since nothing may be compiled at start."""

    def check(self, manifest: Manifest) -> None:
        """Raise IncompatibleError if this machine cannot run the artifact."""

    def logits(self, folder: Path, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Token ids int64 [tokens] of rows to logits float32 [tokens, vocab] of each, through every compiled file."""
        raise IncompatibleError(f"{folder}: cannot compute logits here", hint="verify it on the machine that serves it")


def runner_of(manifest: Manifest, max_memory: int = 1 << 30) -> Runner | None:
    """Runner of an artifact on this machine. Raises UsageError if its target is not installed."""
    from compiler.targets import load

    return load(manifest.target).runtime.runner(manifest, max_memory)


def model_of(folder: Path) -> Model:
    """Model of the artifact in `folder`, loaded by its target's runner. Raises IncompatibleError if there is none."""
    from compiler.artifact.manifest import load_manifest

    return (runner_of(load_manifest(folder)) or Runner()).load(folder)
