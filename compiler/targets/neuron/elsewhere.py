"""Artifacts that another machine compiled, by the script of script.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.artifact.manifest import PROVENANCE, SBOM
from compiler.artifact.parts import Part, existing, written
from compiler.errors import ArtifactError, RefusedError
from compiler.targets.neuron.artifact import contents
from compiler.targets.neuron.drivers.call import check_restart
from compiler.targets.neuron.drivers.choice import driver_of
from compiler.targets.neuron.drivers.driver import RESULT, check_compiler, check_result
from compiler.targets.neuron.graph.signature import graph_specs
from compiler.targets.neuron.neuronx import COMMAND, parse_version
from compiler.targets.neuron.platforms import platform_of
from compiler.targets.neuron.restart import CACHE, RECORD
from compiler.targets.neuron.script import COMPILED, SCRIPT
from compiler.targets.neuron.specs import HLO, NEFF, VENDOR, VERSION
from compiler.targets.neuron.support import plan_of
from compiler.targets.values import Contents, Made, Planned

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Manifest
    from compiler.model.config import ModelConfig
    from compiler.model.limits import Limits
    from compiler.targets.neuron.drivers.driver import VendorDriver
    from compiler.targets.neuron.options import NeuronOptions
    from compiler.targets.neuron.plan import NeuronPlan

_STATEMENTS = (PROVENANCE, SBOM)


class GraphsElsewhere:
    """Builds whose graphs another machine compiles, or whose driver runs there."""

    def delegates(self, options: NeuronOptions) -> bool:
        """Never: shards and graphs need no software of vendors."""
        del options
        return False

    def delegated(
        self, config: ModelConfig, tp: int, dtype: str, limits: Limits, options: NeuronOptions, model: str
    ) -> Contents:
        """Raise RefusedError: every build makes shards and graphs first."""
        raise RefusedError("target `neuron` makes shards and graphs itself", hint="build with `lmi-compile build`")

    def finished(
        self,
        manifest: Manifest,
        plan: Planned[NeuronOptions],
        files: Sequence[Part],
        folder: Path,
        made: Path | None,
    ) -> Contents:
        """Contents of the artifact of `manifest` (`files` in `folder`) with the result in the folder `made`.

        Raises ArtifactError for a missing executable, or a result that is not that of the plan.
        """
        made = made or folder / COMPILED
        if not made.is_dir():
            raise ArtifactError(f"{made} is missing", hint=f"run `{SCRIPT}` first, or pass its folder with `--engines`")
        found = plan_of(plan.config, plan.tp, plan.limits, plan.dtype, plan.options)
        driver, tokenizer = (
            driver_of(plan.options, found),
            [part for part in files if part.path.startswith("tokenizer/")],
        )
        if driver is not None:
            result = made / RESULT if (made / RESULT).is_dir() else made
            check_result(driver, found, platform_of(plan.options.instance).name, result)
            beside = _of_call(driver, made)
            parts = [
                existing(path, f"{VENDOR}/{path.relative_to(result)}")
                for path in sorted(result.rglob("*"))
                if path.is_file()
            ]
            return contents(plan, Made((), {VENDOR: [*parts, *beside]}, tokenizer))
        shards = [part for part in files if part.path in manifest.section.rank_files or part.path == "shards.json"]
        finished = contents(plan, Made(shards, _compiled(found, files, made), tokenizer))
        known = {part.path for part in finished.parts} | {SCRIPT, *_STATEMENTS}
        rest = [part for part in files if part.path not in known]
        return Contents(
            [*finished.parts, *rest],
            finished.section,
            toolchain={COMMAND: _version(made)},
            stand_in=finished.stand_in,
        )


def _of_call(driver: VendorDriver, made: Path) -> list[Part]:
    """Compile cache and record of the second process, as the script left them beside the result; it may be older than
    both. Raises CompileError for a miss that matters, IncompatibleError for another compiler than that of the SDK.
    """
    cache = [path for path in sorted((made / CACHE).rglob("*")) if path.is_file() and path.suffix != ".lock"]
    for path in (made / CACHE).glob("neuronxcc-*"):
        check_compiler(driver, path.name.partition("-")[2])
    found = [existing(path, f"{VENDOR}/cache/{path.relative_to(made / CACHE)}") for path in cache]
    if (made / RECORD).is_file():
        check_restart(driver, (made / RECORD).read_text())
        found.append(existing(made / RECORD, f"{VENDOR}/{RECORD}"))
    return found


def _compiled(plan: NeuronPlan, files: Sequence[Part], made: Path) -> dict[str, list[Part]]:
    """Parts of every graph by its name. Raises ArtifactError for one without an executable."""
    hlo = {part.name: part for part in files if part.name.endswith(f".{HLO}")}
    version, found = written(f"graph.{VERSION}", _version(made).encode()), dict[str, list[Part]]()
    for spec in graph_specs(plan):
        neff = made / f"{spec.name}.{NEFF}"
        if not neff.is_file() or not neff.stat().st_size:
            raise ArtifactError(
                f"{neff} is missing or empty", hint=f"run `{SCRIPT}` again: it compiles what is missing"
            )
        parts = [hlo[f"{spec.name}.{HLO}"], existing(neff, neff.name), version.at(f"{spec.name}.{VERSION}")]
        found[spec.name] = parts
    return found


def _version(made: Path) -> str:
    """Version of the compiler, from what the script left. Raises ArtifactError."""
    path = made / VERSION
    found = parse_version(path.read_text(errors="replace")) if path.is_file() else None
    if found is None:
        raise ArtifactError(f"{path} names no version of {COMMAND}", hint=f"run `{SCRIPT}` again")
    return found


GRAPHS_ELSEWHERE = GraphsElsewhere()
