"""Files of a TensorRT-LLM artifact, before and after the engines are built.

before   checkpoint/{config.json, rank{r}.safetensors}    build-engines.sh    tokenizer/
after    the tree that the image's container loads (compiler/lmi/package.py);
         if no LMI image has the version: engines/{config.json, rank{r}.engine}    tokenizer/
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compiler.artifact.manifest import Manifest
from compiler.artifact.parts import Part, written
from compiler.artifact.quantization import quant_of
from compiler.artifact.sections import section_as
from compiler.lmi.check import check as check_container
from compiler.lmi.images import TrtllmImage, image_uri
from compiler.lmi.package import EngineFacts, container_files, engine_folder, tokenizer_paths
from compiler.lmi.serving_options import named_options
from compiler.targets.trtllm.command import CHECKPOINT, ENGINES, command_line, flags_of
from compiler.targets.trtllm.config import checkpoint_config, config_bytes
from compiler.targets.trtllm.engines import built_by, engine_problems
from compiler.targets.trtllm.limits import build_limits
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.script import SCRIPT, script
from compiler.targets.trtllm.section import Engines
from compiler.targets.trtllm.spec import engine_files
from compiler.targets.trtllm.version import image_of, show, version_of
from compiler.targets.values import Contents, Made, Planned
from compiler.tokenizer.container import FORMS, container_form

_REGION = "us-east-1"
"""Region of the registry in the command file; every region has the same images."""


def contents(plan: Planned[TrtllmOptions], made: Made) -> Contents:
    """Contents of the engines' artifact; of the checkpoint's if nothing is compiled yet."""
    engines = made.compiled.get(ENGINES, ())
    return _engines(plan, made, engines) if engines else _checkpoint(plan, made)


def _checkpoint(plan: Planned[TrtllmOptions], made: Made) -> Contents:
    image = image_of(plan.options)
    files = [part.inside(CHECKPOINT) for part in made.weights]
    whole = plan.options.image if "/" in plan.options.image else ""  # full name: in the user's registry
    place = whole or (image_uri(image.tag, _REGION) if image else None)
    finish = written(SCRIPT, script(flags_of(plan), place), executable=True)
    section = _section(plan, made, image, checkpoint_files=tuple(sorted(part.path for part in files)))
    return Contents([*files, finish, *made.tokenizer], section)


def _engines(plan: Planned[TrtllmOptions], made: Made, engines: Sequence[Part]) -> Contents:
    image = image_of(plan.options)
    config = next(part for part in engines if part.name == "config.json")
    version, stand_in = built_by(config.read())
    folder, tokenizer, more = ENGINES, [*made.tokenizer], list[Part]()
    if image is not None:
        facts = _facts(plan, image, [part.name for part in made.tokenizer], [part.name for part in engines])
        folder, places = engine_folder(facts), tokenizer_paths(facts)
        tokenizer = [part.at(places[part.name]) for part in _readable(made.tokenizer, image) if part.name in places]
        more = [written(path, data) for path, data in container_files(facts).items()]
    placed = [part.inside(folder) for part in engines]
    names = engine_files(plan.tp * plan.options.pp)
    files = tuple(f"{folder}/{name}" if folder else name for name in names)
    return Contents(
        [*placed, *tokenizer, *more],
        _section(plan, made, image, files=files),
        repeatable=False,
        toolchain={"tensorrt_llm": version},
        stand_in=stand_in,
    )


def check_tokenizer(plan: Planned[TrtllmOptions], names: Sequence[str]) -> None:
    """Raise TokenizerError if the image's front end cannot load a tokenizer from these files."""
    image = image_of(plan.options)
    if image is not None:
        tokenizer_paths(_facts(plan, image, names, [*engine_files(plan.tp * plan.options.pp), "config.json"]))


def transformers(options: TrtllmOptions) -> str | None:
    """Version of transformers in the image; None where no LMI image is meant."""
    image = image_of(options)
    return image.transformers if image else None


def _readable(tokenizer: Sequence[Part], image: TrtllmImage) -> list[Part]:
    """Parts of the tokenizer, in the form that the image's transformers reads. Raises TokenizerError."""
    made = container_form({part.name: part.read() for part in tokenizer if part.name in FORMS}, image.transformers)
    return [written(part.path, made[part.name]) if part.name in made else part for part in tokenizer]


def _facts(
    plan: Planned[TrtllmOptions], image: TrtllmImage, tokenizer: Sequence[str], engines: Sequence[str]
) -> EngineFacts:
    limits = build_limits(plan.limits, plan.options)
    return EngineFacts(
        model=plan.config.architecture,
        release=image.release,
        tp=plan.tp,
        dtype=plan.dtype,
        max_batch_size=limits.max_batch_size,
        max_input_len=limits.max_input_len,
        max_seq_len=limits.max_seq_len,
        max_num_tokens=limits.max_num_tokens,
        engine_files=tuple(sorted(engines)),
        tokenizer_files=tuple(tokenizer),
        pp=plan.options.pp,
        options=plan.options.properties,
    )


def _section(
    plan: Planned[TrtllmOptions],
    made: Made,
    image: TrtllmImage | None,
    checkpoint_files: tuple[str, ...] = (),
    files: tuple[str, ...] = (),
) -> Engines:
    return Engines(
        version=show(version_of(plan.options)),
        image=image.tag if image else None,
        container=image.family if image else None,
        quant_algo=plan.options.quant_algo,
        checkpoint={part.name: part.descriptor.digest for part in made.weights},
        checkpoint_files=checkpoint_files,
        files=files,
        limits=build_limits(plan.limits, plan.options),
        argv=tuple(command_line(plan)),
        serving=named_options(plan.options.serving),
    )


def options_of(manifest: Manifest) -> TrtllmOptions:
    """Options that an artifact was built with."""
    engines, parallel, quantized = section_of(manifest), manifest.parallel, manifest.quantisation
    return TrtllmOptions(
        version=engines.version,
        image=engines.image or "",
        pp=parallel.pp,
        moe_ep=parallel.moe_ep,
        parallel_embedding=parallel.parallel_embedding,
        quant_algo=engines.quant_algo,
        kv_cache_quant_algo=quantized.kv_cache.upper() if quantized else "",
        group_size=quant_of(quantized).group_size or TrtllmOptions.group_size,
        max_input_len=engines.limits.max_input_len,
        max_num_tokens=engines.limits.max_num_tokens,
        serving=tuple(f"{name}={value}" for name, value in engines.serving.items()),
    )


def section_of(manifest: Manifest) -> Engines:
    """Section of a manifest. Raises ArtifactError if it is another target's."""
    return section_as(manifest, Engines, "trtllm")


def rank_folder(manifest: Manifest) -> str | None:
    """Folder of the checkpoint; None if the artifact has none."""
    return CHECKPOINT if section_of(manifest).checkpoint_files else None


def problems(manifest: Manifest, folder: Path) -> list[str]:
    """Differences from the manifest: in the checkpoint's config.json, or in engines and their container's files."""
    config, section = manifest.config, section_of(manifest)
    image = image_of(options_of(manifest))
    found = []
    if section.files and image is not None:
        found += [problem.text for problem in check_container(folder, image.release)]
    if not section.checkpoint:  # compiled by an image from the source model
        return found
    wanted = checkpoint_config(config, manifest.parallel.tp, manifest.dtype, options_of(manifest))
    if section.checkpoint_files:
        path = folder / CHECKPOINT / "config.json"
        if path.read_bytes() != config_bytes(wanted):
            found.append(f"{CHECKPOINT}/config.json differs from the manifest's model, version and ranks")
    if section.files:
        engines = (folder / section.files[0]).parent
        found += engine_problems(engines, wanted, version_of(options_of(manifest)), section.limits)
    return found
