"""Execution of vLLM artifacts: logits by the judge of their shards, answers by a server that starts from the cache."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.errors import IncompatibleError
from compiler.targets.runners import Runner
from compiler.targets.vllm.interpreter import COMPARED, PYTHON, python_with_vllm, versions_of
from compiler.targets.vllm.layout import rank_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Manifest
    from compiler.decoder.judge import DecoderJudge
    from compiler.model.config import ModelConfig
    from compiler.runtime.generate import Model
    from compiler.runtime.params import Completion, GenerationParams


def judge_of(folder: Path, config: ModelConfig, _max_memory: int, lowered: ModelConfig | None = None) -> DecoderJudge:
    """Judge of the shards in `folder`. It maps a layer of all ranks at a time and widens blocks of 16 MiB, whatever the
    limit of memory. `lowered`: `config` with other limits, computed in its place.
    """
    from compiler.decoder.judge import DecoderJudge
    from compiler.targets.vllm.judge import ShardWeights, kernels_of

    files = sorted(folder.glob("model-rank-*-part-0.safetensors"))
    ranks = [ShardWeights(folder / rank_file(rank), rank, len(files), config) for rank in range(len(files))]
    return DecoderJudge(lowered or config, ranks, kernels_of(files[0], config))


@dataclass(frozen=True)
class ShardRunner(Runner):
    """Runner of an artifact's shards: the judge. `unserved`: reason why no server answers here."""

    config: ModelConfig
    max_memory: int
    unserved: str = ""

    def load(self, folder: Path) -> Model:
        """Raise IncompatibleError: a judge answers no prompts."""
        raise IncompatibleError(
            f"{folder} cannot answer here: {self.unserved}",
            hint="`bake.sh` in the artifact makes its cache where vLLM is, then `lmi-compile package`; "
            f"{PYTHON} names the Python of an environment that has vLLM",
        )

    def logits(self, folder: Path, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Logits by the judge, one row after the other. Raises ArtifactError."""
        judge = judge_of(folder, self.config, self.max_memory)
        return [judge.logits(row) for row in rows]


class ServerRunner(ShardRunner):
    """Runner of an artifact with a cache, where vLLM is installed. Its server gave the same log probabilities as the
    judge when the cache was made (bake.py).
    """

    def check(self, manifest: Manifest) -> None:
        """Raise ToolchainMissing without vLLM, IncompatibleError for other versions than those of the bake."""
        found = versions_of(python_with_vllm())
        wrong = [
            f"{name} {found.get(name, 'is missing')} here, {built} in the bake"
            for name, built in sorted(manifest.toolchain.items())
            if name in COMPARED and found.get(name) != built
        ]
        if wrong:
            raise IncompatibleError(
                f"`{manifest.name}` cannot use its cache here: {'; '.join(wrong)}",
                hint="run it in the image that it was built for",
            )

    streams = False

    def answers(
        self, folder: Path, prompts: Sequence[str], params: GenerationParams
    ) -> tuple[Sequence[Completion], Sequence[str]]:
        """Answers by the server, see answers.py."""
        from compiler.targets.vllm.answers import answers

        return answers(folder, prompts, params)

    own_server = "vLLM"

    def serve(self, folder: Path, host: str, port: int, ready: Callable[[str], None], stop: Event) -> None:
        """Serve with vLLM's own routes, see answers.py."""
        from compiler.targets.vllm.answers import serve

        serve(folder, host, port, ready, stop)

    def once(self, folder: Path, prompt: str, max_new_tokens: int) -> Sequence[str]:
        """Command line of `python -m compiler.targets.vllm.once`."""
        path = os.environ.get("PATH", os.defpath)
        return [sys.executable, "-m", "compiler.targets.vllm.once", str(folder), prompt, str(max_new_tokens), path]
