"""Choice of a driver by architecture, platform and image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from compiler.errors import LmiCompileError, RefusedError, UsageError
from compiler.lmi.images import parse_tag
from compiler.targets.neuron.architectures import row_for
from compiler.targets.neuron.drivers import nxdi, optimum, tnx
from compiler.targets.neuron.platforms import platform_of

if TYPE_CHECKING:
    from compiler.targets.neuron.architectures import NeuronModel
    from compiler.targets.neuron.drivers.driver import VendorDriver
    from compiler.targets.neuron.options import NeuronOptions
    from compiler.targets.neuron.plan import NeuronPlan

GRAPH: Final = "graph"
VENDORS = ("optimum", "nxdi", "tnx")
DRIVERS = (GRAPH, *VENDORS)
_AUTO = ("optimum", "nxdi")
"""Drivers that `auto` tries in this order: those whose images are still released."""
_BY_IMAGE = {"djl-inference": "tnx", "huggingface-vllm": "optimum", "pytorch-inference-vllm": "nxdi", "vllm": "nxdi"}
"""Driver by the beginning of an image's name; tags alone are of djl-inference."""


def driver_of(options: NeuronOptions, plan: NeuronPlan) -> VendorDriver | None:
    """Driver of a plan; None: `graph`. `auto` takes that of `--image`, else the first that can have the plan, else
    `graph`.

    Raises RefusedError for a driver that cannot have it, with those that can; UsageError for an unknown name.
    """
    wanted, platform = options.neuron_driver, platform_of(options.instance).name
    if wanted not in ("auto", *DRIVERS):
        raise UsageError(
            f"`--neuron-driver` is auto, {', '.join(DRIVERS)}; found `{wanted}`", hint="leave it out for the first"
        )
    named = _of_image(options.image) if options.image else ""
    if wanted == "auto" and not named:
        return next((_driver(name, options) for name in _AUTO if not _lacks(name, plan, platform, options)), None)
    name = named if wanted == "auto" else wanted
    if named and name not in (named, GRAPH):
        raise UsageError(
            f"`--image {options.image}` loads what driver `{named}` makes; found `--neuron-driver {name}`",
            hint="leave one of the two out",
        )
    if name == GRAPH:
        return None
    if reason := _lacks(name, plan, platform, options):
        others = [GRAPH, *(other for other in VENDORS if not _lacks(other, plan, platform, options))]
        raise RefusedError(
            f"driver `{name}` cannot build {plan.config.architecture}: {reason}",
            hint=f"`--neuron-driver` {' or '.join(others)}",
        )
    return _driver(name, options)


def _driver(name: str, options: NeuronOptions) -> VendorDriver:
    """Driver of this name; that of transformers-neuronx for the release of the image."""
    release = _release(options.image)
    legacy = tnx.driver(release) if release else tnx.driver()
    return {"optimum": optimum.DRIVER, "nxdi": nxdi.DRIVER, "tnx": legacy}[name]


def _lacks(name: str, plan: NeuronPlan, platform: str, options: NeuronOptions) -> str:
    """Reason why a driver cannot have a plan; "" if it can."""
    row, driver = row_for(plan.config), _driver(name, options)
    if not getattr(row, name):
        return "its library has no class for it"
    if platform not in driver.images:
        return f"no image of it serves on {platform}"
    if name == "tnx" and (reason := _before(row, options.image)):
        return reason
    return driver.lacks(plan)


def _before(row: NeuronModel, image: str) -> str:
    release = _release(image)
    if release is not None and release < row.tnx_since:
        since = f"{row.tnx_since[0]}.{row.tnx_since[1]}"
        return f"LMI {release[0]}.{release[1]} has no loader for it, LMI {since} is the first"
    return ""


def _release(image: str) -> tuple[int, int] | None:
    """LMI release of an image; None for other images, and for ""."""
    try:
        return parse_tag(image).release if image else None
    except LmiCompileError:
        return None


def _of_image(image: str) -> str:
    """Driver whose results an image loads. Raises UsageError for an image without one."""
    last = image.rpartition("/")[2]
    for beginning, name in _BY_IMAGE.items():
        if last.startswith(beginning) and ("neuron" in last):
            return name
    try:
        if parse_tag(image).kind == "neuronx":
            return "tnx"
    except LmiCompileError:
        pass
    raise UsageError(
        f"no driver is known for the image `{image}`", hint="name the driver: `--neuron-driver nxdi`, or leave it out"
    )
