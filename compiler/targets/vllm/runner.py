"""Execution of vLLM artifacts: logits by vLLM without compilation, answers by a server that starts from the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import IncompatibleError, RankError
from compiler.targets.runners import Runner
from compiler.targets.vllm import logits as process
from compiler.targets.vllm.cache import CompiledCache
from compiler.targets.vllm.environment import DEVICE, PINNED
from compiler.targets.vllm.explain import read_report
from compiler.targets.vllm.interpreter import python_with_vllm, versions_of
from compiler.targets.vllm.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from compiler.artifact.manifest import Manifest

_LOG_TAIL = 64_000


class VllmRunner(Runner):
    """Runner of an artifact with a compiled cache."""

    def __init__(self, cache: CompiledCache, device: str, vocab: int) -> None:
        self._cache, self._device, self._vocab = cache, device, vocab

    def check(self, manifest: Manifest) -> None:
        """Raise ToolchainMissing without vLLM, IncompatibleError for other versions than those of the bake."""
        found = versions_of(python_with_vllm())
        wrong = [
            f"{name} {found.get(name, 'is missing')} here, {built} in the bake"
            for name, built in sorted(manifest.toolchain.items())
            if name in ("vllm", "torch", "triton", "python") and found.get(name) != built
        ]
        if wrong:
            raise IncompatibleError(
                f"`{manifest.name}` cannot use its cache here: {'; '.join(wrong)}",
                hint="run it in the image that it was built for",
            )

    def logits(self, folder: Path, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Log probabilities [tokens, vocab] of each row by vLLM without compilation, from the artifact's weights.

        The link to the compiled kernels is the report: its answers are those of the start that was proven.
        Raises RankError.
        """
        serving = Serving(**read_report(folder / self._cache.report)["serving"])
        arguments: dict[str, Any] = {
            "tensor_parallel_size": serving.tp,
            "dtype": serving.dtype,
            "max_model_len": serving.max_model_len,
            "max_num_seqs": serving.max_num_seqs,
            "load_format": serving.load_format,
            "skip_tokenizer_init": True,
        }
        ids = [[int(token) for token in row] for row in rows]
        with tempfile.TemporaryDirectory(prefix="lmi-vllm-") as work:
            source, output = Path(work) / "input.json", Path(work) / "output.npz"
            source.write_text(
                json.dumps({"model": str(folder), "arguments": arguments, "rows": ids, "vocab": self._vocab})
            )
            environment = {**os.environ, **PINNED, **DEVICE[self._device], "VLLM_CACHE_ROOT": f"{work}/cache"}
            ran = subprocess.run(
                [python_with_vllm(), str(process.__file__), str(source), str(output)],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if ran.returncode != 0:
                raise RankError(
                    f"vLLM does not compute {folder}: exit code {ran.returncode}",
                    hint="the log has its output",
                    log=(ran.stdout + ran.stderr)[-_LOG_TAIL:],
                )
            with np.load(output) as arrays:
                return [arrays[f"arr_{index}"] for index in range(len(ids))]

    def once(self, folder: Path, prompt: str, max_new_tokens: int) -> Sequence[str]:
        """Command line of `python -m compiler.targets.vllm.once`."""
        path = os.environ.get("PATH", os.defpath)
        return [sys.executable, "-m", "compiler.targets.vllm.once", str(folder), prompt, str(max_new_tokens), path]
