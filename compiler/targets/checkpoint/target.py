"""Parts of target `checkpoint`: the model's own files, complete, checked and ordered. Nothing is compiled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from compiler.artifact.manifest import Device
from compiler.artifact.parts import written
from compiler.artifact.sections import section_as
from compiler.errors import LmiCompileError, RefusedError, TokenizerError
from compiler.lmi import java_properties
from compiler.lmi.checkpoint import (
    MODEL_DATA,
    CheckpointFacts,
    check_quantized,
    checkpoint_properties,
    model_data,
    profile_of,
)
from compiler.lmi.files import tokenizer_problems
from compiler.lmi.properties import SERVING_PROPERTIES, Properties
from compiler.lmi.serving_options import named_options
from compiler.model.parallel import check_parallel
from compiler.storage.checkpoints.checkpoint import open_checkpoint
from compiler.targets.checkpoint.options import CheckpointOptions
from compiler.targets.checkpoint.section import PinnedCheckpoint
from compiler.targets.protocols import Compiler, Packager, Runtime, Support, Target
from compiler.targets.values import Contents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Manifest
    from compiler.model.config import ModelConfig
    from compiler.model.limits import Limits
    from compiler.quantization.request import Quant
    from compiler.targets.values import How, Made, Planned, Sources, Spec, Toolchain

_WEIGHTS = ".safetensors"


class CheckpointSupport(Support[CheckpointOptions]):
    """Support of every model with a recipe, whatever the container makes of it."""

    def check(self, config: ModelConfig, tp: int, options: CheckpointOptions, limits: Limits | None = None) -> None:
        """Raise ParallelError if `tp` cannot split the model, UsageError or RefusedError for a wrong profile, image or
        property.
        """
        check_parallel(config, tp)
        profile, properties = options.resolved, options.properties
        facts = CheckpointFacts(profile, tp, "float16", 1, 1, properties)
        found = checkpoint_properties(facts)
        if options.uri:
            model_data(found, options.uri)

    def quantized(
        self, config: ModelConfig, quant: Quant, options: CheckpointOptions
    ) -> tuple[Quant, CheckpointOptions]:
        """Refuse every scheme: the files stay as they were published."""
        raise RefusedError(
            "target `checkpoint` packs a model's own files and quantizes nothing",
            hint="leave `--quant` out; `--option quantize=...` rounds in the container, where it can",
        )


class Nothing:
    """Toolchain without specs."""

    stand_in = False

    def versions(self, device: str) -> dict[str, str]:
        """No versions: no compiled file depends on any."""
        return {}

    def compile(
        self,
        specs: Sequence[Any],
        out: Path,
        how: How,
        *,
        device: Device,
        sources: Sources,
        progress: Callable[[int, int], None],
    ) -> None:
        """Compile nothing."""


class NoCompiler(Compiler[CheckpointOptions]):
    """A compiler without specs."""

    def toolchain(self) -> Toolchain:
        """The toolchain without specs."""
        return Nothing()

    def device(self, how: How) -> Device:
        """Any GPU: nothing depends on its kind."""
        return Device(kind="cuda")

    def specs(self, plan: Planned[CheckpointOptions], source: str) -> Sequence[Spec]:
        """No spec."""
        return ()


class CheckpointPackager(Packager[CheckpointOptions]):
    """Artifacts of a model's own files beside a serving.properties."""

    def contents(self, plan: Planned[CheckpointOptions], made: Made) -> Contents:
        """Weights and small files at the root, as the container reads a model folder."""
        profile, options = plan.options.resolved, plan.options
        texts = [part.at(part.name) for part in made.tokenizer]
        method = _method(next((part.read() for part in texts if part.name == "config.json"), b"{}"))
        if method:
            check_quantized(method, profile)
        properties = _properties(plan)
        more = [written(SERVING_PROPERTIES, properties.to_bytes())]
        if options.uri:
            more.append(written(MODEL_DATA, model_data(properties, options.uri)))
        section = PinnedCheckpoint(
            backend=profile.backend,
            release=f"{profile.release[0]}.{profile.release[1]}",
            image=profile.image or None,
            weights=tuple(part.path for part in made.weights if part.path.endswith(_WEIGHTS)),
            serving=named_options(options.serving),
            uri=options.uri,
        )
        return Contents([*made.weights, *texts, *more], section, repeatable=False)

    def check_tokenizer(self, plan: Planned[CheckpointOptions], names: Sequence[str]) -> None:
        """Raise TokenizerError if transformers cannot load a tokenizer from these files."""
        problems = tokenizer_problems(names)
        if problems:
            raise TokenizerError(
                f"{plan.options.resolved.text} needs a tokenizer: {'; '.join(one.text for one in problems)}",
                hint="pass `--tokenizer DIR` with the files that `save_pretrained` of the tokenizer writes",
            )

    def options_of(self, manifest: Manifest) -> CheckpointOptions:
        """Profile, properties and prefix of the artifact."""
        section = section_of(manifest)
        return CheckpointOptions(
            image=section.image or f"{section.release}.0",
            profile=section.backend,
            serving=tuple(f"{name}={value}" for name, value in section.serving.items()),
            uri=section.uri,
        )

    def problems(self, manifest: Manifest, folder: Path) -> Sequence[str]:
        """Faults of headers and index, and properties that the container's two readers read differently."""
        try:
            open_checkpoint(folder)
            data = (folder / SERVING_PROPERTIES).read_bytes()
            plain = java_properties.parse_plain(data.decode("latin-1"))
        except (LmiCompileError, OSError) as error:
            return [str(error)]
        java = java_properties.parse(data.decode("latin-1"))
        tp = java.get("option.tensor_parallel_degree")
        found = ["serving.properties is read differently by the container's two readers"] if plain != java else []
        if tp != str(manifest.parallel.tp):
            found.append(f"serving.properties has tp {tp}; the manifest has {manifest.parallel.tp}")
        return found


class CheckpointRuntime(Runtime):
    """Execution by the container only."""

    def unproven(self, manifest: Manifest) -> str:
        """Always a reason: only the container runs the model."""
        return f"{section_of(manifest).backend} in the container runs it, not this runtime"

    def endpoint_problems(self, manifest: Manifest, image: str, instance_type: str) -> Sequence[str]:
        """Problems of an image without the back end, or with properties of another release."""
        section = section_of(manifest)
        try:
            profile = profile_of(section.backend, image.rpartition("/")[2])
        except LmiCompileError as error:
            return [error.message]
        release = f"{profile.release[0]}.{profile.release[1]}"
        if release != section.release:
            return [f"its serving.properties is for LMI {section.release}; the image is LMI {release}"]
        return []


def section_of(manifest: Manifest) -> PinnedCheckpoint:
    """Section of a manifest. Raises ArtifactError if it is another target's."""
    return section_as(manifest, PinnedCheckpoint, "checkpoint")


def _properties(plan: Planned[CheckpointOptions]) -> Properties:
    limits, options = plan.limits, plan.options
    return checkpoint_properties(
        CheckpointFacts(
            options.resolved, plan.tp, plan.dtype, limits.max_batch, limits.max_positions, options.properties
        )
    )


def _method(config: bytes) -> str:
    """`quant_method` of a config.json, "" without one."""
    found = json.loads(config).get("quantization_config")
    return cast("str", found.get("quant_method", "")) if isinstance(found, dict) else ""


TARGET = Target(
    name="checkpoint",
    options=CheckpointOptions,
    support=CheckpointSupport(),
    layout=None,
    compiler=NoCompiler(),
    packager=CheckpointPackager(),
    runtime=CheckpointRuntime(),
)
