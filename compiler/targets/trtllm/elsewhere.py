"""Builds that another machine finishes: the script for it, and the artifact from its output.

TensorRT-LLM 0.8 and later    a checkpoint and `build-engines.sh`, whose output is engines/
LMI 0.25 and 0.26             no checkpoint format: `partition.sh` runs the image's own command on the source; its
                              output is compiled/, a Triton repository with engines
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from compiler.artifact.manifest import Manifest
from compiler.artifact.parts import Part, existing, written
from compiler.errors import ArtifactError
from compiler.lmi.images import TrtllmImage
from compiler.lmi.partition import Partition, pack_partition, partition_argv, partition_script
from compiler.lmi.serving_options import named_options
from compiler.lmi.triton import MODEL
from compiler.model.config import ModelConfig
from compiler.model.limits import Limits
from compiler.targets.trtllm.artifact import contents, section_of
from compiler.targets.trtllm.command import ENGINES
from compiler.targets.trtllm.engines import STAND_IN
from compiler.targets.trtllm.host import HOST, read_host
from compiler.targets.trtllm.limits import build_limits
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.section import Engines
from compiler.targets.trtllm.spec import engine_files
from compiler.targets.trtllm.version import FIRST, image_of, release_of
from compiler.targets.values import Contents, Made, Planned

PARTITION = "partition.sh"
COMPILED = "compiled"
"""Output folder of `partition.sh`."""


class EnginesElsewhere:
    """Builds of engines that another machine finishes."""

    def delegates(self, options: TrtllmOptions) -> bool:
        """Whether the requested image is older than the checkpoint format."""
        return _image_without_checkpoints(options) is not None

    def delegated(
        self, config: ModelConfig, tp: int, dtype: str, limits: Limits, options: TrtllmOptions, model: str
    ) -> Contents:
        """Contents of an artifact with the script that runs the image's command.

        `model`: a Hugging Face id, an `s3://` prefix, or a folder.

        Raises:
            RefusedError: the image's command does not support the model or pp.
        """
        image = _image_without_checkpoints(options)
        assert image is not None
        partition = _partition(image, model, tp, dtype, limits, options)
        script = written(PARTITION, partition_script(partition).encode(), executable=True)
        return Contents([script], _section(image, partition, limits, options), repeatable=False)

    def finished(
        self, manifest: Manifest, plan: Planned[TrtllmOptions], files: Sequence[Part], folder: Path, made: Path | None
    ) -> Contents:
        """Contents of the artifact of `manifest` (`files` in `folder`) with the engines in the folder `made`.

        Raises:
            ArtifactError: a file is missing.
            CompileError: `made` is no output of the image's command.
        """
        image = _image_without_checkpoints(plan.options)
        if image is not None:
            return _repository(manifest, plan, image, files, made or folder / COMPILED)
        made = made or folder / ENGINES
        section = section_of(manifest)
        outputs = [*engine_files(plan.tp * plan.options.pp), "config.json"]
        found = contents(
            plan,
            Made(
                [part for part in files if part.path in section.checkpoint_files],
                {ENGINES: [_built(made / name) for name in outputs]},
                [part for part in files if part.path.startswith("tokenizer/")],
            ),
        )
        capability, versions = read_host(made / HOST)
        return Contents(
            found.parts,
            found.section,
            repeatable=False,
            toolchain={**found.toolchain, **versions},
            capability=capability,
            stand_in=found.stand_in,
        )


ENGINES_ELSEWHERE = EnginesElsewhere()


def _built(file: Path) -> Part:
    if not file.is_file():
        raise ArtifactError(
            f"{file} is missing",
            hint="run `build-engines.sh` first, or pass the folder of the engines with `--engines`",
        )
    return existing(file, file.name)


def _repository(
    manifest: Manifest, plan: Planned[TrtllmOptions], image: TrtllmImage, files: Sequence[Part], made: Path
) -> Contents:
    if not made.is_dir():
        raise ArtifactError(
            f"{made} is missing", hint=f"run `{PARTITION}` first, or pass its output folder with `--engines`"
        )
    options, repo_id = plan.options, manifest.model.repo_id
    partition = _partition(image, repo_id or "./model", plan.tp, plan.dtype, plan.limits, options)
    tokenizer = [part for part in files if part.path.startswith("tokenizer/")]
    packed = pack_partition(made, partition, tuple(part.name for part in tokenizer))
    here = {str(path.relative_to(made)): path for path in sorted(made.rglob("*")) if path.is_file()}
    left = [existing(path, name) for name, path in here.items() if name not in packed]
    more = [part.inside(MODEL) for part in tokenizer if f"{MODEL}/{part.name}" not in here]
    engines = tuple(name for name in here if name.endswith(".engine"))
    config = json.loads((made / MODEL / "1" / "config.json").read_bytes())
    return Contents(
        [*left, *more, *(written(name, data) for name, data in packed.items())],
        _section(image, partition, plan.limits, options, engines),
        repeatable=False,
        toolchain={"tensorrt_llm": image.trtllm, "tensorrt": image.tensorrt},
        stand_in=str(config.get("version", "")).endswith(STAND_IN),
    )


def _image_without_checkpoints(options: TrtllmOptions) -> TrtllmImage | None:
    """Requested image, if its TensorRT-LLM is older than the checkpoint format; else None."""
    image = image_of(options)
    return image if image is not None and release_of(image.trtllm) < FIRST else None


def _partition(
    image: TrtllmImage, model: str, tp: int, dtype: str, limits: Limits, options: TrtllmOptions
) -> Partition:
    wanted = build_limits(limits, options)
    return Partition(
        model=model,
        release=image.release,
        tp=tp,
        dtype=dtype,
        max_batch_size=wanted.max_batch_size,
        max_input_len=wanted.max_input_len,
        max_seq_len=wanted.max_seq_len,
        max_num_tokens=wanted.max_num_tokens,
        pp=options.pp,
        options=options.properties,
    )


def _section(
    image: TrtllmImage, partition: Partition, limits: Limits, options: TrtllmOptions, files: tuple[str, ...] = ()
) -> Engines:
    return Engines(
        version=image.trtllm,
        image=image.tag,
        container=image.family,
        quant_algo="",
        checkpoint={},
        checkpoint_files=(),
        files=files,
        limits=build_limits(limits, options),
        argv=tuple(partition_argv(partition)),
        serving=named_options(options.serving),
    )
