"""Execution of artifacts of target `vllm`: their judge computes shards anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.targets.protocols import Runtime
from compiler.targets.runners import Runner
from compiler.targets.vllm.layout import rank_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Manifest
    from compiler.model.config import ModelConfig
    from compiler.targets.vllm.judge import ShardJudge


def judge_of(folder: Path, config: ModelConfig, _max_memory: int, lowered: ModelConfig | None = None) -> ShardJudge:
    """Judge of the shards in `folder`. It maps a layer of all ranks at a time and widens blocks of 16 MiB, whatever the
    limit of memory. `lowered`: `config` with other limits, computed in its place.
    """
    from compiler.targets.vllm.judge import ShardJudge, ShardWeights

    files = sorted(folder.glob("model-rank-*-part-0.safetensors"))
    ranks = [ShardWeights(folder / rank_file(rank), rank, len(files), config) for rank in range(len(files))]
    return ShardJudge(lowered or config, ranks)


@dataclass(frozen=True)
class ShardRunner(Runner):
    """Runner of an artifact's shards: the judge."""

    config: ModelConfig
    max_memory: int

    def logits(self, folder: Path, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Logits by the judge, one row after the other. Raises ArtifactError."""
        judge = judge_of(folder, self.config, self.max_memory)
        return [judge.logits(row) for row in rows]


class VllmRuntime(Runtime):
    """Execution by vLLM in its container, and of shards by the judge."""

    def runner(self, manifest: Manifest, max_memory: int) -> Runner | None:
        """The judge if the artifact has shards, else None."""
        return ShardRunner(manifest.config, max_memory) if manifest.section.rank_files else None

    def unproven(self, manifest: Manifest) -> str:
        """Always a reason: the judge computes logits, but does not start a server."""
        return "its server is vLLM's, which this runtime does not start"
