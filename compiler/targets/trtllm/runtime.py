"""Execution of artifacts of target `trtllm`: the judge computes checkpoints; engines run only in an LMI container."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.errors import LmiCompileError
from compiler.lmi.images import image_for_trtllm, trtllm_image
from compiler.machine import installed
from compiler.targets.protocols import Runtime
from compiler.targets.runners import Runner
from compiler.targets.trtllm.artifact import section_of
from compiler.targets.trtllm.command import CHECKPOINT, COMMAND
from compiler.targets.trtllm.host import PACKAGES
from compiler.targets.values import Ability, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from compiler.artifact.manifest import Manifest
    from compiler.machine import Host
    from compiler.model.config import ModelConfig
    from compiler.targets.trtllm.judge import CheckpointJudge

JUDGE_BUFFERS = 4
"""Blocks of rows that the judge holds: read, widened, converted, and their product."""
_COMMAND = "pip install tensorrt_llm --extra-index-url https://pypi.nvidia.com"
_INSTALL = f"in the vendor's image, or `{_COMMAND}` on a GPU machine"
_CONTAINER = "served by an LMI container"


def judge_of(folder: Path, config: ModelConfig, max_memory: int, lowered: ModelConfig | None = None) -> CheckpointJudge:
    """Judge of the checkpoint in `folder`, see judge.py. `max_memory` in bytes. `lowered`: `config` with other limits,
    which replace those in the checkpoint that are the ones of `config`.
    """
    from compiler.targets.trtllm.judge import CheckpointJudge
    from compiler.targets.trtllm.judge_model import BLOCK
    from compiler.targets.trtllm.read import RankTensors

    content = json.loads((folder / "config.json").read_bytes())
    ranks = [RankTensors(folder / f"rank{rank}.safetensors") for rank in range(content["mapping"]["world_size"])]
    if lowered is not None:
        _lower(content, config, lowered)
    windows = [kind.window for kind in (lowered or config).layer_kinds]
    return CheckpointJudge(content, ranks, windows, min(BLOCK, max_memory // JUDGE_BUFFERS))


def _lower(content: dict[str, Any], config: ModelConfig, lowered: ModelConfig) -> None:
    """Replace the context length of a rope scaling in config.json `content`. A wrong one stays, and is noticed."""
    if config.rope_scaling is None or lowered.rope_scaling is None:
        return
    key = "original_max_position_embeddings"
    for part in (content, content.get("rotary_scaling") or {}):
        if part.get(key) == config.rope_scaling.original_max_positions:
            part[key] = lowered.rope_scaling.original_max_positions


@dataclass(frozen=True)
class CheckpointRunner(Runner):
    """Runner of an artifact's checkpoint: the judge."""

    config: ModelConfig
    max_memory: int

    def logits(self, folder: Path, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Logits by the judge, which has no caches: one row after the other. Raises ArtifactError."""
        judge = judge_of(folder / CHECKPOINT, self.config, self.max_memory)
        return [judge.logits(row) for row in rows]


class TrtllmRuntime(Runtime):
    """Execution of engines, which need their own version of TensorRT-LLM."""

    def runner(self, manifest: Manifest, max_memory: int) -> Runner | None:
        """The judge if the artifact has a checkpoint, else None."""
        if not section_of(manifest).checkpoint_files:
            return None
        return CheckpointRunner(manifest.config, max_memory)

    def unproven(self, manifest: Manifest) -> str:
        """Always a reason: only the container runs engines."""
        return "its engines are run by the serving container, not by this runtime"

    def findings(self, manifest: Manifest, host: Host) -> Sequence[Finding]:
        """Findings about missing engines, and about the exact versions of TensorRT-LLM and TensorRT that built them."""
        found, remedy = [], manifest.section.unfinished
        if remedy:
            found.append(Finding("engines", "mismatch", "the checkpoint's engines are not built yet", remedy))
        for name, built in sorted(manifest.toolchain.items()):
            here = host.packages.get(name)
            if name not in PACKAGES:
                continue
            if here is not None and _release(here) == _release(built):
                found.append(Finding(name, "ok", here))
            else:
                text = f"built with {built}; {here or 'not installed'} here"
                found.append(Finding(name, "mismatch", text, f"run it in {_image(manifest, name, built)}"))
        return found

    def endpoint_problems(self, manifest: Manifest, image: str, instance_type: str) -> Sequence[str]:
        """Problems of engines that are missing, of another version, or in another tree than the image loads."""
        section = section_of(manifest)
        try:
            facts = trtllm_image(image)
        except LmiCompileError as error:
            return [error.message]
        problems = ["its engines are not built yet"] if manifest.device.capability is None else []
        if section.version.partition("rc")[0] != facts.trtllm:
            problems.append(f"its engines are for TensorRT-LLM {section.version}; the image has {facts.trtllm}")
        elif section.image and trtllm_image(section.image).family != facts.family:
            problems.append(f"its files are laid out for {section.image}; LMI {facts.lmi} needs another tree")
        return problems

    def doctor(self) -> tuple[Sequence[Finding], Sequence[Ability]]:
        """Findings about TensorRT-LLM; checkpoints need torch, engines the command `trtllm-build`."""
        version, here = installed("tensorrt_llm"), shutil.which(COMMAND) is not None
        package = Finding("tensorrt_llm", "ok", version) if version else None
        torch = installed("torch") is not None
        return (package or Finding("tensorrt_llm", "missing", "not installed", _INSTALL),), (
            Ability(
                "trtllm (checkpoint)", torch, runs=False, why=_CONTAINER, mend="" if torch else "pip install torch"
            ),
            Ability(
                "trtllm (engines)",
                here,
                runs=False,
                why=_CONTAINER if here else f"needs {COMMAND}, on a GPU machine",
                mend="" if here else _COMMAND,
            ),
        )


def _image(manifest: Manifest, name: str, built: str) -> str:
    """Image with this version of the package `name`."""
    tag = manifest.section.image_tag
    if tag is None and name == PACKAGES[0] and (image := image_for_trtllm(built)) is not None:
        tag = image.tag
    return f"the LMI image {tag}" if tag else f"an image that has {name} {built}"


def _release(version: str) -> list[str]:
    """Three numbers of a version, all of which must match those of the build."""
    return version.split("+")[0].split(".")[:3]
