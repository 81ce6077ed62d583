"""Toolchain of target `neuron`: graphs are lowered here, and compiled by neuronx-cc where that is installed."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

from compiler.errors import ToolchainMissing
from compiler.machine import available_memory, extra_command, installed
from compiler.targets.neuron.drivers.call import run_driver
from compiler.targets.neuron.neuronx import (
    COMMAND,
    TIMEOUT_S,
    NeuronxRun,
    compiler_argv,
    compiler_version,
    find_compiler,
    run_compiler,
)
from compiler.targets.neuron.platforms import platform_named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Device
    from compiler.targets.neuron.specs import AnySpec, GraphBuild
    from compiler.targets.values import How, Sources

stand_in = False
"""False: this is the real toolchain; see `compiler.targets.values.Toolchain`."""
LOWERING = ("jax", "jaxlib")
"""Packages that the bytes of a graph depend on."""
LIBRARIES = ("optimum-neuron", "neuronx-distributed-inference", "transformers-neuronx")
"""Libraries of the drivers, by their names in package indexes."""
EXTRA = extra_command("neuron")
HOST_BYTES = 16 << 30
"""Host memory for one run of the compiler: an estimate of ours, no figure is published."""


def versions(_device: str) -> dict[str, str]:
    """Versions of jax, and of the software of a driver that is installed. Raises ToolchainMissing without jax."""
    found = {name: version for name in (*LOWERING, *LIBRARIES) if (version := installed(name)) is not None}
    if missing := [name for name in LOWERING if name not in found]:
        raise ToolchainMissing(f"graphs are made with jax; `{missing[0]}` is not installed", hint=EXTRA)
    return found | ({COMMAND: compiler_version()} if find_compiler() else {})


def compile(  # noqa: A001  # the stage's name, see `compiler.targets.values.Toolchain`
    specs: Sequence[AnySpec],
    out: Path,
    how: How,
    *,
    device: Device,
    sources: Sources,
    progress: Callable[[int, int], None],
) -> None:
    """Prove graphs of a small model, lower those of the plan into `out`, compile them in parallel, as many as the host
    has memory for, and run the driver.

    Raises ToolchainMissing, CompileError, ArtifactError, NumericsError; finished graphs are complete in `out`.
    """
    del device
    from compiler.targets.neuron.presharded_files import write_presharded
    from compiler.targets.neuron.specs import GraphBuild, GraphProof, PreshardedWeights, VendorBuild
    from compiler.targets.neuron.verify import verify_small

    graphs = [spec for spec in specs if isinstance(spec, GraphBuild)]
    timeout, done, lock = how.timeout or TIMEOUT_S, 0, Lock()

    def advance() -> None:
        nonlocal done
        with lock:
            done += 1
            progress(done, len(specs))

    for spec in specs:
        if isinstance(spec, GraphProof):
            (out / spec.outputs[0]).write_text(json.dumps(verify_small(spec.plan).to_json(), indent=1) + "\n")
            advance()
    if graphs:
        _compile_graphs(graphs, out, how.jobs, timeout, advance)
    for spec in specs:
        if isinstance(spec, VendorBuild):
            run_driver(spec, out, sources, timeout)
            advance()
        if isinstance(spec, PreshardedWeights):
            write_presharded(spec.plan.config, spec.plan.tp, sources.checkpoint, sources.tokenizer, out / spec.name)
            advance()


def _compile_graphs(
    specs: Sequence[GraphBuild], out: Path, jobs: int | None, timeout: float, advance: Callable[[], None]
) -> None:
    from compiler.targets.neuron.graph.lower import lower

    work = out / "work"
    work.mkdir(exist_ok=True)
    version = compiler_version() if any(spec.compiled for spec in specs) else ""

    def finish(spec: GraphBuild) -> None:
        for output in spec.outputs:
            (work / output).rename(out / output)
        advance()

    def compiled(spec: GraphBuild, digest: str) -> None:
        argv = compiler_argv(spec.hlo, spec.neff, platform_named(spec.platform))
        run_compiler(NeuronxRun(argv, {spec.hlo: digest}, (spec.neff,), timeout), work)
        (work / spec.outputs[-1]).write_text(version)
        finish(spec)

    workers = jobs or max(min(available_memory() // HOST_BYTES, len(specs)), 1)
    with ThreadPoolExecutor(workers, "neuronx-cc") as pool:
        running = []
        for spec in specs:
            data = lower(spec.plan, spec.graph)
            (work / spec.hlo).write_bytes(data)
            if spec.compiled:
                running.append(pool.submit(compiled, spec, hashlib.sha256(data).hexdigest()))
            else:
                finish(spec)
        try:
            for job in running:
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    work.rmdir()
