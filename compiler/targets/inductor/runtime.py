"""Execution of artifacts of target `inductor` by this project's runtime on this machine."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Literal

from compiler.errors import NumericsError
from compiler.targets.protocols import Runtime
from compiler.targets.runners import Runner, decoded
from compiler.targets.values import Ability, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Manifest
    from compiler.machine import Host
    from compiler.runtime.generate import Model
    from compiler.targets.inductor.options import InductorOptions
    from compiler.targets.values import Planned


_SHORTER = 8
"""Difference of the lengths of rows in a whole batch."""


class SegmentRunner(Runner):
    """Runner of packages and rank files, in this process and one more process for each further rank."""

    reference: Literal["source", "rank files"] = "rank files"
    caches = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")
    """Folders of code that torch, Triton and CUDA's driver compile at run time."""

    def check(self, manifest: Manifest) -> None:
        """Raise IncompatibleError if torch, instruction set or GPU do not fit, UsageError for a level of kernels that
        this CPU does not run.
        """
        from compiler.artifact.check import check_machine
        from compiler.runtime.levels import level

        check_machine(manifest)
        if manifest.device.kind == "cpu":
            level()

    def logits(self, folder: Path, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Logits through every package: of the first row alone, of all rows together, and of the last one in a whole
        batch beside shorter ones. Logits that come from two of these are taken from both in turn.

        Raises NumericsError where a package has another window than its segment (probe.py).
        """
        from compiler.runtime.generate import load as load_model

        _check_windows(folder)
        with load_model(folder) as model:
            return _logits(model, [row.tolist() for row in rows], decoded(rows))

    def load(self, folder: Path) -> Model:
        """Model, for a process that only runs artifacts. Raises as `runtime.generate.load`."""
        from compiler.runtime.generate import load as load_model
        from compiler.runtime.lean import import_torch

        return load_model(folder, import_torch=import_torch)

    def once(self, folder: Path, prompt: str, max_new_tokens: int) -> Sequence[str]:
        """Command line of `python -m compiler.runtime.once`."""
        return [sys.executable, "-m", "compiler.runtime.once", str(folder), prompt, str(max_new_tokens)]


def _check_windows(folder: Path) -> None:
    """Raise NumericsError where a package of attention has another window or chunk than the artifact's model."""
    from compiler.artifact.manifest import load_manifest
    from compiler.decoder.segments import are_whole, specs
    from compiler.model.limits import Limits
    from compiler.runtime.package import Package
    from compiler.runtime.section import runnable
    from compiler.targets.inductor.probe import attention_problems

    manifest = load_manifest(folder)
    made, limits = runnable(manifest), Limits(**manifest.limits.model_dump())
    shape, tp, dtype = manifest.config, manifest.parallel.tp, manifest.dtype
    found = attention_problems(
        specs(shape, tp, dtype, limits, made.products, made.cache, made.head, whole=are_whole(made.layers)),
        lambda spec, inputs: Package(folder / made.packages[spec.name]).run(inputs)[0],
        manifest.device.kind,
    )
    if found:
        raise NumericsError(
            "\n".join(["compiled attention sees other keys than the model's:", *(f"  {problem}" for problem in found)]),
            hint="do not use it; build it again with `--rehash`, and report the error if it persists",
        )


def _logits(model: Model, rows: list[list[int]], steps: int) -> list[NDArray[np.float32]]:
    """See SegmentRunner.logits. `steps`: tokens of each row that go through decode steps."""

    def alone(row: list[int]) -> NDArray[np.float32]:
        # Two steps of prefill: the second one attends to what the first has written.
        return model.logits_of_rows([row], decoded=steps, chunk=max((len(row) - steps + 1) // 2, 1))[0]

    if model.limits.max_batch < len(rows):
        return [alone(row) for row in rows]
    first, *others = model.logits_of_rows(rows, decoded=steps)
    found = [_in_turn(alone(rows[0]), first, steps), *others]
    if model.limits.max_batch > len(rows):
        last = rows[-1]
        shorter = last[: max(len(last) - _SHORTER, steps + 1)]
        batch = [
            shorter if (model.limits.max_batch - place) % 2 == 0 else last for place in range(model.limits.max_batch)
        ]
        found[-1] = _in_turn(found[-1], model.logits_of_rows(batch, decoded=steps, prefilled=False)[-1], steps)
    return found


def _in_turn(whole: NDArray[np.float32], other: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Logits `whole` [tokens, vocab], of whose last `steps` every other comes from `other`."""
    found = whole.copy()
    if steps:
        found[len(whole) - steps :: 2] = other[len(other) - steps :: 2]
    return found


def _speed(manifest: Manifest, host: Host) -> list[Finding]:
    """Limit of decode on the CPU of `host`. Raises UsageError for a level of kernels that it does not run."""
    from compiler.runtime.levels import level
    from compiler.runtime.section import runnable
    from compiler.targets.inductor.options import InductorOptions
    from compiler.targets.inductor.speed import decode_speed

    if manifest.device.kind != "cpu":
        return []
    if host.bandwidth is None:
        return [Finding("decode", "ok", f"kernels of level {level(flags=host.features)}")]
    options = InductorOptions.of(runnable(manifest))
    return [decode_speed(manifest.config, manifest.parallel.tp, manifest.dtype, options, host.bandwidth, host.features)]


@cache
def _bandwidth() -> float:
    """Bytes a second that all cores read, measured once."""
    from compiler.machine import read_bandwidth

    return read_bandwidth()


class SegmentRuntime(Runtime):
    """Execution on this machine; no container image loads these artifacts."""

    def runner(self, manifest: Manifest, max_memory: int) -> Runner:
        """The runtime, which needs no buffers besides its weights."""
        return SegmentRunner()

    def unproven(self, manifest: Manifest) -> str:
        """No reason: the runtime runs it."""
        return ""

    def findings(self, manifest: Manifest, host: Host) -> Sequence[Finding]:
        """Findings about torch, the instruction set and the kernels of a CPU; GPUs are compared by preflight."""
        from compiler.artifact.check import Machine, check_machine
        from compiler.errors import LmiCompileError

        # the artifact's own capability: preflight compares GPUs
        machine = Machine(host.packages.get("torch"), host.isa, host.features, manifest.device.capability)
        try:
            check_machine(manifest, machine)
            speed = _speed(manifest, host)
        except LmiCompileError as error:
            return [Finding("runtime", "mismatch", error.message, error.hint)]
        needs = (f"torch {manifest.toolchain.get('torch', 'any')}", manifest.device.isa)
        return [Finding("runtime", "ok", f"runs artifacts for {', '.join(need for need in needs if need)}"), *speed]

    def speed(self, plan: Planned[InductorOptions]) -> Sequence[Finding]:
        """Limit of decode on this CPU."""
        from compiler.targets.inductor.speed import decode_speed

        return [decode_speed(plan.config, plan.tp, plan.dtype, plan.options, _bandwidth())]

    def expected(self, manifest: Manifest) -> Sequence[tuple[str, str]]:
        """Bytes of a decode step, level of its kernels on this CPU."""
        from compiler.targets.inductor.speed import expected

        return expected(manifest)

    def doctor(self) -> tuple[Sequence[Finding], Sequence[Ability]]:
        """Findings about torch, the C++ compiler and the GPU."""
        from compiler.targets.inductor.doctor import doctor

        return doctor()
