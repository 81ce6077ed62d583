"""Running artifacts of target `inductor`: the runtime of this project runs them on this machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from compiler.targets.protocols import Runtime
from compiler.targets.runners import Runner
from compiler.targets.values import Ability, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Manifest
    from compiler.machine import Host
    from compiler.runtime.generate import Model


class SegmentRunner(Runner):
    """Packages and rank files of an artifact, in this process and one process for each further rank."""

    reference: Literal["source", "rank files"] = "rank files"
    caches = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")
    """Where torch, Triton and CUDA's driver put what they compile at run time."""

    def check(self, manifest: Manifest) -> None:
        """Raises IncompatibleError: torch, instruction set or GPU."""
        from compiler.artifact.check import check_machine

        check_machine(manifest)

    def logits(self, folder: Path, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits by the runtime, so that every package has its part in them.

        The first half of the tokens goes through prefill; the others through decode steps of one row, of two and
        of as many as the artifact takes, which give the logits in turn.
        """
        from compiler.runtime.generate import load as load_model

        begin = (len(token_ids) + 1) // 2
        with load_model(folder) as model:
            batches = sorted({1, min(2, model.max_batch), model.max_batch})
            runs = [model.logits(token_ids.tolist(), decode_from=begin, rows=rows) for rows in batches]
        logits = runs[0].copy()
        for turn, run in enumerate(runs):
            logits[begin + turn :: len(runs)] = run[begin + turn :: len(runs)]
        return logits

    def load(self, folder: Path) -> Model:
        """The model, for a process that does nothing but run artifacts. Raises as `runtime.generate.load`."""
        from compiler.runtime.generate import load as load_model
        from compiler.runtime.lean import import_torch

        return load_model(folder, import_torch=import_torch)

    def once(self, folder: Path, prompt: str, max_new_tokens: int) -> Sequence[str]:
        """`python -m compiler.runtime.once`."""
        return [sys.executable, "-m", "compiler.runtime.once", str(folder), prompt, str(max_new_tokens)]


class SegmentRuntime(Runtime):
    """Artifacts run here; no container image loads them."""

    def runner(self, manifest: Manifest, max_memory: int) -> Runner:
        """The runtime; it needs no buffers besides its weights."""
        return SegmentRunner()

    def unproven(self, manifest: Manifest) -> str:
        """The runtime proves it."""
        return ""

    def findings(self, manifest: Manifest, host: Host) -> Sequence[Finding]:
        """Torch and the instruction set. A GPU has findings of its own."""
        from compiler.artifact.check import Machine, check_machine
        from compiler.errors import LmiCompileError

        # A GPU of another kind is found by the comparison of GPUs.
        machine = Machine(host.packages.get("torch"), host.isa, host.features, manifest.device.capability)
        try:
            check_machine(manifest, machine)
        except LmiCompileError as error:
            return [Finding("runtime", "mismatch", error.message, error.hint)]
        needs = (f"torch {manifest.toolchain.get('torch', 'any')}", manifest.device.isa)
        return [Finding("runtime", "ok", f"runs what was built for {', '.join(need for need in needs if need)}")]

    def endpoint_problems(self, manifest: Manifest, image: str, instance_type: str) -> Sequence[str]:
        """An LMI image with TensorRT-LLM loads engines only; any other image serves what its owner says it serves."""
        from compiler.errors import LmiCompileError
        from compiler.lmi.images import trtllm_image

        try:
            facts = trtllm_image(image)
        except LmiCompileError:
            return []
        return [f"LMI {facts.lmi} serves TensorRT-LLM engines; this is another kind of artifact"]

    def doctor(self) -> tuple[Sequence[Finding], Sequence[Ability]]:
        """Torch, the C++ compiler and the GPU."""
        from compiler.targets.inductor.doctor import doctor

        return doctor()
