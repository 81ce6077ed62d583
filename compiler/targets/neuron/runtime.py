"""NeuronCores here and in containers, and the judge of the shards."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import ArtifactError, LmiCompileError
from compiler.lmi.instances import instance
from compiler.machine import installed
from compiler.model.limits import Limits
from compiler.targets.neuron.artifact import options_of, section_of
from compiler.targets.neuron.build import EXTRA, LIBRARIES, LOWERING
from compiler.targets.neuron.drivers.choice import driver_of
from compiler.targets.neuron.neuronx import COMMAND, INSTALL, compiler_version, find_compiler
from compiler.targets.neuron.platforms import PLATFORMS
from compiler.targets.neuron.support import plan_of
from compiler.targets.protocols import Runtime
from compiler.targets.runners import Runner
from compiler.targets.values import Ability, Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Manifest
    from compiler.decoder.judge import DecoderJudge
    from compiler.machine import Host
    from compiler.model.config import ModelConfig
    from compiler.targets.neuron.drivers.driver import VendorDriver
    from compiler.targets.neuron.plan import NeuronPlan

_DEVICES = Path("/dev")
_CONTAINER = "served by a container on NeuronCores"
_COPIES = 4
"""Copies of all shards that their execution on replicas holds."""
_AGREEMENT = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}
"""Largest difference between buckets, in parts of the largest logit: their sums are taken in another order."""


def judge_of(folder: Path, config: ModelConfig, _max_memory: int, lowered: ModelConfig | None = None) -> DecoderJudge:
    """Judge of the shards in `folder`, see judge.py. `lowered`: the model with other limits."""
    from compiler.decoder.judge import DecoderJudge
    from compiler.targets.neuron.judge import gathered

    return DecoderJudge(lowered or config, [gathered(folder, config)])


@dataclass(frozen=True)
class GatheredRunner(Runner):
    """Runner of an artifact's shards: the judge."""

    config: ModelConfig

    def logits(self, folder: Path, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Logits by the judge, one row after the other. Raises ArtifactError."""
        judge = judge_of(folder, self.config, 0)
        return [judge.logits(row) for row in rows]


@dataclass(frozen=True)
class GraphRunner(Runner):
    """Runner of an artifact's graphs with its shards: one replica of this machine's processor for each rank."""

    plan: NeuronPlan
    shards: tuple[str, ...]

    def logits(self, folder: Path, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Logits by all graphs of the largest batch, prompts and decode steps, in a process of its own.

        Raises CompileError if they cannot run, ArtifactError if graphs of two buckets disagree.
        """
        from compiler.targets.neuron.verify import execute, job_of

        most = self.plan.buckets.context[-1] if self.plan.buckets.context else self.plan.sequence_length
        prompts = [max(min(len(row) // 2, most), 1) for row in rows]
        files = [folder / name for name in self.shards]
        job = job_of(self.plan, folder / "graphs", files, [row.tolist() for row in rows], prompts)
        with tempfile.TemporaryDirectory(prefix="lmi-compile-neuron-") as work:
            (outcome,) = execute({Path(work): job})
        *others, last = outcome.runs.values()
        for other in others:
            check_equal(other, last, self.plan.dtype)
        return list(last)


def check_equal(one: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]], dtype: str) -> None:
    """Check that graphs of different buckets give the same logits, up to rounding. Raises ArtifactError."""
    import numpy as np

    scale = max(float(np.abs(row).max()) for row in other)
    found = max(float(np.abs(mine - theirs).max()) for mine, theirs in zip(one, other, strict=True)) / scale
    if not found <= _AGREEMENT[dtype]:
        raise ArtifactError(
            f"graphs of two buckets differ by {found:.2g} of the largest logit; expected at most {_AGREEMENT[dtype]}",
            hint="build the artifact again; if it is fresh, this is a bug of the graphs",
        )


@dataclass(frozen=True)
class VendorRunner(Runner):
    """Runner of what a driver's library made: the container's own server, see once.py."""

    computes = False

    def once(self, folder: Path, prompt: str, max_new_tokens: int) -> Sequence[str]:
        """Command of once.py, with the PATH of this process."""
        words = (str(folder), prompt, str(max_new_tokens), os.environ.get("PATH", ""))
        return (sys.executable, "-m", "compiler.targets.neuron.once", *words)


def driver_of_manifest(manifest: Manifest) -> tuple[VendorDriver, NeuronPlan] | None:
    """Driver and plan of an artifact; None for driver `graph`."""
    plan = _plan(manifest)
    found = driver_of(options_of(manifest), plan)
    return None if found is None else (found, plan)


def _plan(manifest: Manifest) -> NeuronPlan:
    limits = Limits(**manifest.limits.model_dump())
    return plan_of(manifest.config, manifest.parallel.tp, limits, manifest.dtype, options_of(manifest))


def neuron_devices() -> int:
    """Number of Neuron devices of this machine, by the driver's files /dev/neuron0, /dev/neuron1 ..."""
    return sum(path.name[6:].isdecimal() for path in _DEVICES.glob("neuron*"))


class NeuronRuntime(Runtime):
    """Execution of artifacts, which needs NeuronCores and a vendor's loader."""

    def runner(self, manifest: Manifest, max_memory: int) -> Runner | None:
        """The graphs themselves, where jax is installed and `max_memory` holds the shards several times; else the judge
        of the shards; the container's server for a driver's result.
        """
        section = section_of(manifest)
        if not section.rank_files:
            return VendorRunner()
        sizes = {file.path: file.size for file in manifest.files}
        need = _COPIES * sum(sizes[path] for path in section.rank_files)
        if not section.graphs or need > max_memory or not all(map(installed, LOWERING)):
            return GatheredRunner(manifest.config)
        return GraphRunner(_plan(manifest), section.rank_files)

    def unproven(self, manifest: Manifest) -> str:
        """Reason for graphs, which have no loader here, and for a driver whose server or devices are not here."""
        section = section_of(manifest)
        if section.unfinished:
            return "it is not compiled yet"
        found = driver_of_manifest(manifest)
        if found is None:
            return f"it runs on {section.platform} by a loader of your own: see that its first start compiles nothing"
        driver, plan = found
        server = driver.server(plan)
        if not server:
            return f"LMI's server in the image {section.image} loads it: see that its first start compiles nothing"
        lacks = [] if neuron_devices() else ["NeuronCores (/dev/neuron0)"]
        lacks += [] if installed(driver.package) else [driver.package]
        lacks += [] if shutil.which(server[0]) else [f"`{server[0]}`"]
        if not lacks:
            return ""
        where = section.instance or f"an instance of {section.platform}"
        return (
            f"a start that compiles nothing was not proven: {', '.join(lacks)} not here. On {where}, in the image "
            f"{section.image}: `lmi-compile prewarm SOURCE /opt/ml/model`"
        )

    def findings(self, manifest: Manifest, host: Host) -> Sequence[Finding]:
        """Findings about compilation, devices and the compiler's version."""
        section, found = section_of(manifest), list[Finding]()
        if section.unfinished:
            found.append(Finding("graphs", "mismatch", "they are not compiled yet", section.unfinished))
        here = neuron_devices()
        if here:
            found.append(Finding("neuron", "ok", f"{here} Neuron devices"))
        else:
            needs = f"needs {manifest.parallel.tp} NeuronCores of {section.platform}; no Neuron driver answers here"
            where = section.instance or "an instance of " + section.platform
            inside = f", in the image {section.image}" if section.image else ""
            remedy = f"run `lmi-compile prewarm SOURCE /opt/ml/model` on {where}{inside}"
            found.append(Finding("neuron", "mismatch", needs, remedy))
        built, own = manifest.toolchain.get(COMMAND), host.packages.get(COMMAND)
        if built and own and built.partition("+")[0].split(".")[:2] != own.partition("+")[0].split(".")[:2]:
            text = f"compiled by {COMMAND} {built}; {own} here"
            found.append(Finding(COMMAND, "mismatch", text, "use the image of the build, or build it again"))
        return found

    def endpoint_environment(self, manifest: Manifest, image: str) -> Mapping[str, str]:
        """Variables by which the container finds the driver's result."""
        return section_of(manifest).environment

    def endpoint_problems(self, manifest: Manifest, image: str, instance_type: str) -> Sequence[str]:
        """Problems of an instance of another family, and of images that serve another target."""
        section, problems = section_of(manifest), list(super().endpoint_problems(manifest, image, instance_type))
        if section.unfinished:
            problems.append("it is not compiled yet")
        family = instance(instance_type).family
        if family != section.platform:
            problems.append(f"it was compiled for {section.platform}; {instance_type} is {family}")
        elif manifest.parallel.tp not in PLATFORMS[family].degrees:
            problems.append(f"the runtime of {family} has no collectives for tp {manifest.parallel.tp}")
        return problems

    def doctor(self) -> tuple[Sequence[Finding], Sequence[Ability]]:
        """Findings about jax, neuronx-cc, the drivers' libraries and devices."""
        lowering = all(installed(name) for name in LOWERING)
        found = [
            Finding("jax", "ok", str(installed("jax")))
            if lowering
            else Finding("jax", "missing", "not installed", EXTRA)
        ]
        try:
            version = compiler_version()
            found.append(Finding(COMMAND, "ok", version))
        except LmiCompileError as error:
            found.append(Finding(COMMAND, "missing", error.message, error.hint))
        found += [Finding(name, "ok", own) for name in LIBRARIES if (own := installed(name))]
        devices = neuron_devices()
        text = f"{devices} Neuron devices" if devices else "no Neuron driver: graphs are compiled for other machines"
        found.append(
            Finding("neuron", "ok" if devices else "note", text, "" if devices else "run artifacts on inf2 or trn")
        )
        compiles = find_compiler() is not None
        return found, (
            Ability(
                "neuron (graphs)",
                lowering,
                runs=False,
                why=_CONTAINER if lowering else f"needs {', '.join(LOWERING)}",
                mend="" if lowering else EXTRA,
            ),
            Ability(
                "neuron (executables)",
                compiles,
                runs=False,
                why=_CONTAINER if compiles else f"needs {COMMAND}",
                mend="" if compiles else INSTALL,
            ),
        )
