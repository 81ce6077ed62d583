"""A driver as one value, and the checks that all of them share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import ArtifactError, IncompatibleError
from compiler.machine import installed
from compiler.quantization.vendors import NEURON_FORMAT
from compiler.targets.neuron import restart

if TYPE_CHECKING:
    from compiler.targets.neuron.plan import NeuronPlan
    from compiler.targets.neuron.section import DriverName

MODEL, RESULT = "model", "result"
"""Folders of a run: the source model, and what the library makes."""


@dataclass(frozen=True)
class VendorRun:
    """Call of a vendor's library in a folder with the model in MODEL; the result goes to RESULT. `files`: written there
    before.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class VendorConfig:
    """File of a result that describes it. `place`: keys to the part that is compared; `values`: expected there."""

    file: str
    place: tuple[str, ...]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class ServedAs:
    """Start of a container with the artifact mounted at `/opt/ml/model`. `command`: arguments of the container, () for
    its own; `files`: besides the result.
    """

    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class VendorDriver:
    """`package`, `command`: distribution and program that the call needs; `sdk`: that its version belongs to. `images`:
    container by platform. `lacks`: reason why the library cannot have a plan, "" if it can. `required`: patterns of
    files that it must make. `compiler`: version of neuronx-cc in its SDK, "" = not known. `keyed`: its container looks
    executables up by the key of their graph. `server`: command that serves a result as the container does, with
    `{model}` and `{port}`, () where none is known. Functions take the plan and the name of the platform.
    """

    name: DriverName
    package: str
    command: str
    sdk: str
    images: Mapping[str, str]
    lacks: Callable[[NeuronPlan], str]
    run: Callable[[NeuronPlan, str], VendorRun]
    required: Callable[[NeuronPlan], Sequence[str]]
    config: Callable[[NeuronPlan, str], VendorConfig]
    served: Callable[[NeuronPlan], ServedAs]
    compiler: str = ""
    keyed: bool = False
    server: Callable[[NeuronPlan], tuple[str, ...]] = lambda _plan: ()


PINNED = ("NEURON", "NXD_", "XLA_", "BASE_COMPILE_WORK_DIR", "SM_ON_")
"""Beginnings of the names of variables that change what the libraries make; a run has those of its driver alone."""
BUILD_ENVIRONMENT: Mapping[str, str] = {
    "NEURON_CC_FLAGS": "--retry_failed_compilation",
    "NEURON_COMPILE_CACHE_URL": restart.CACHE,
    "BASE_COMPILE_WORK_DIR": "/tmp/nxd_model",  # noqa: S108  # in the key of the cache: the same on every machine
}
"""Environment of every run: a run that failed goes on from the graphs that are in its cache."""


def is_installed(driver: VendorDriver) -> bool:
    """Whether the driver's library is installed here, and its command on PATH."""
    return installed(driver.package) is not None and shutil.which(driver.command) is not None


def files_of(run: VendorRun) -> dict[str, bytes]:
    """Files of a call, with the script of its second run."""
    return {**run.files, restart.SCRIPT: restart.restart_script(run.argv, tuple(run.files))}


def pinned(run: VendorRun, environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with the variables of the call in the place of its own."""
    return {name: value for name, value in environment.items() if not name.startswith(PINNED)} | {**run.environment}


def check_compiler(driver: VendorDriver, version: str) -> None:
    """Check that neuronx-cc is that of the driver's SDK, where that is known. Raises IncompatibleError."""
    if driver.compiler and ".".join(version.split(".")[:2]) != driver.compiler:
        image = next(iter(driver.images.values()))
        raise IncompatibleError(
            f"driver `{driver.name}` belongs to SDK {driver.sdk} with neuronx-cc {driver.compiler}; found {version}",
            hint=f"build in its image, {image}: executables of another version are not loaded",
        )


def check_result(driver: VendorDriver, plan: NeuronPlan, platform: str, folder: Path) -> None:
    """Check that `folder` has all required files, and a configuration that is the plan's.

    Raises ArtifactError with every difference.
    """
    lost = [name for name in driver.required(plan) if not any(map(_written, folder.glob(name)))]
    if lost:
        raise ArtifactError(
            f"{folder}: {driver.name} is expected to make {lost[0]}; it is missing or empty"
            + (f", as are {len(lost) - 1} others" if len(lost) > 1 else ""),
            hint="run the command again: graphs that were compiled are in its cache",
        )
    wanted = driver.config(plan, platform)
    found = _part(folder / wanted.file, wanted.place)
    wrong = [
        f"  {key}: expected {value}; found {found.get(key, 'nothing')}"
        for key, value in wanted.values.items()
        if found.get(key) != value
    ]
    if wrong:
        raise ArtifactError(
            "\n".join([f"{folder / wanted.file} is not that of the plan:", *wrong]),
            hint=f"run the command of this artifact, in the image with SDK {driver.sdk}",
        )


def _written(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _part(path: Path, place: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        for key in place:
            found = found[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: expected a JSON object at {' / '.join(place) or 'its top'}; found {error!r}",
            hint="run the command again",
        ) from None
    return found if isinstance(found, dict) else {}


def shards_in(folder: str, plan: NeuronPlan) -> list[str]:
    """Shards of all ranks by the names of neuronx-distributed."""
    return [f"{folder}/tp{rank}_sharded_checkpoint.safetensors" for rank in range(plan.tp)]


def unknown_to_nxd(plan: NeuronPlan) -> str:
    """Reason why software on neuronx-distributed has no such plan; "" for none. It pads query heads and repeats kv
    heads as our first two strategies do.
    """
    if plan.heads.strategy in ("shard-over-batch", "all-gather-heads"):
        return f"it has no `{plan.heads.strategy}`"
    if len(plan.batches) > 1:
        return f"it compiles one batch size; found {', '.join(map(str, plan.batches))}"
    if plan.weights:
        return f"it reads {NEURON_FORMAT} weights from a checkpoint of its own, which is not written here"
    return ""
