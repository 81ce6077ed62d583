"""Compile: the specs of a target, each behind the cache; those that are not there in one call of its toolchain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.pipeline.parts import parts_of
from compiler.pipeline.runner import Batch
from compiler.targets.values import TREE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Device
    from compiler.artifact.parts import Part
    from compiler.pipeline.runner import CachedRunner, Keep
    from compiler.targets.values import How, Sources, Spec, Toolchain

_VERSION = 1


@dataclass(frozen=True)
class CompileInputs:
    """Cache key of one spec. `march`: "" where the target chooses."""

    version: int
    spec: dict[str, Any]
    toolchain: dict[str, str]
    device: dict[str, Any]
    march: str
    stand_in: bool


def compile_specs(
    runner: CachedRunner,
    specs: Sequence[Spec],
    sources: Sources,
    toolchain: Toolchain,
    versions: Mapping[str, str],
    device: Device,
    how: How,
) -> dict[str, Sequence[Part]]:
    """Outputs of every spec, by its name. `sources`: the toolchain's input. Raises CompileError."""
    by_name = {spec.name: spec for spec in specs}

    def inputs(spec: Spec) -> CompileInputs:
        described, march = device.model_dump(mode="json"), how.march or ""
        return CompileInputs(_VERSION, spec.to_json(), dict(versions), described, march, toolchain.stand_in)

    def run(names: Sequence[str], out: Path, keep: Keep) -> None:
        wanted = [by_name[name] for name in names]
        toolchain.compile(wanted, out, how, device=device, sources=sources, progress=keep)

    batch = Batch(
        "compile",
        {name: inputs(spec) for name, spec in by_name.items()},
        lambda name, out, ended: _outputs(by_name[name], out, ended=ended),
        run,
    )
    return {name: parts_of(entry) for name, entry in runner.run_batch(batch).items()}


def _outputs(spec: Spec, out: Path, *, ended: bool) -> list[Path]:
    """The outputs of a finished spec, files and folders. A tree has no name to look for: it is finished when the
    toolchain has `ended`.
    """
    if spec.outputs == TREE:
        folder = out / spec.name
        return sorted(folder.iterdir()) if ended and folder.is_dir() else []
    files = [out / output for output in spec.outputs]
    return files if all(file.exists() for file in files) else []
