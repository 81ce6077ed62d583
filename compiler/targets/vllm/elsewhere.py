"""Artifacts whose cache another machine made, by the script of script.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compiler.artifact.manifest import PROVENANCE, SBOM, Manifest
from compiler.artifact.parts import Part, existing
from compiler.artifact.quantization import FIGURES
from compiler.artifact.quantization import REPORT as QUANTIZATION
from compiler.errors import ArtifactError, RefusedError
from compiler.model.config import ModelConfig
from compiler.model.limits import Limits
from compiler.targets.values import Contents, Made, Planned
from compiler.targets.vllm.artifact import contents, section_of
from compiler.targets.vllm.bake import ARCHIVE, REPORT, for_device
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.pack import OWN
from compiler.targets.vllm.script import COMPILED, SCRIPT
from compiler.targets.vllm.specs import spec_of

_STATEMENTS = (PROVENANCE, SBOM, QUANTIZATION, FIGURES, "reference.safetensors")
"""Files that are written anew with the artifact, or are of the shards alone."""


class CacheElsewhere:
    """Builds whose cache another machine makes."""

    def delegates(self, options: VllmOptions) -> bool:
        """Never: shards need no vLLM."""
        return False

    def delegated(
        self, config: ModelConfig, tp: int, dtype: str, limits: Limits, options: VllmOptions, model: str
    ) -> Contents:
        """Raise RefusedError: no image of this target converts the source itself."""
        raise RefusedError(
            "vLLM images convert nothing ahead of time", hint="build the shards with `lmi-compile build`"
        )

    def finished(
        self, manifest: Manifest, plan: Planned[VllmOptions], files: Sequence[Part], folder: Path, made: Path | None
    ) -> Contents:
        """Contents of the artifact of `manifest` (`files` in `folder`) with the cache in the folder `made`.

        Raises ArtifactError for a missing file, or a cache of other weights.
        """
        made = made or folder / COMPILED
        if lost := [name for name in (ARCHIVE, REPORT) if not (made / name).is_file()]:
            raise ArtifactError(
                f"{made / lost[0]} is missing", hint=f"run `{SCRIPT}` first, or pass its folder with `--engines`"
            )
        report = json.loads((made / REPORT).read_bytes())
        if wrong := _differences(manifest, plan, report):
            raise ArtifactError(
                "\n".join([f"{made / REPORT} is of another artifact:", *(f"  {line}" for line in wrong)]),
                hint=f"run the `{SCRIPT}` of this artifact",
            )
        section = section_of(manifest)
        compiled = {"cache": [existing(made / name, name) for name in (ARCHIVE, REPORT)]}
        weights = [part for part in files if part.path in section.files]
        others = [part for part in files if part.path not in {*section.files, *OWN, *_STATEMENTS}]
        found = contents(plan, Made(weights, compiled))
        return Contents(
            [*found.parts, *(part for part in others if part.path not in {each.path for each in found.parts})],
            found.section,
            repeatable=False,
            toolchain=report["versions"],
            capability=report["capability"],
        )


def _differences(manifest: Manifest, plan: Planned[VllmOptions], report: Mapping[str, Any]) -> list[str]:
    """Lines on what a cache was made for, and not this artifact."""
    source = manifest.model.source_digest
    spec = spec_of(plan.config, plan.tp, plan.dtype, plan.limits, plan.options, plan.digest, source)
    wanted = {"plan": plan.digest, **asdict(for_device(spec, manifest.device.kind).serving)}
    found = {"plan": report["plan"], **report["serving"]}
    names = [name for name in wanted if name != "model"]
    return [f"{name} {found.get(name)}; expected {wanted[name]}" for name in names if found.get(name) != wanted[name]]


CACHE_ELSEWHERE = CacheElsewhere()
