"""Files of a vLLM artifact: the folder that a container mounts as /opt/ml/model.

config.json tokenizer*    model-rank-{r}-part-0.safetensors    manifest.json    and those of the cache (pack.py)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from compiler.artifact.parts import Part, written
from compiler.artifact.sections import section_as
from compiler.targets.values import Contents, Made, Planned
from compiler.targets.vllm.architectures import compared
from compiler.targets.vllm.compressed import with_quantization
from compiler.targets.vllm.copies import INDEX, copies, index_of
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.pack import cache_files
from compiler.targets.vllm.section import OnMiss, Shards
from compiler.targets.vllm.version import image_of, show, version_of

if TYPE_CHECKING:
    from compiler.artifact.manifest import Manifest


def contents(plan: Planned[VllmOptions], made: Made) -> Contents:
    """Weights, tokenizer and cache, side by side; an index for the files of a checkpoint."""
    image, plain = image_of(plan.options), bool(copies(plan.config, plan.options))
    weights = [part.path for part in made.weights]
    files, cache = cache_files(made, image, plan.options)
    more = []
    if plain and len(weights) > 1:
        more.append(written(INDEX, index_of(made.weights)))
    return Contents(
        [*made.weights, *more, *_texts(plan, made), *files],
        Shards(
            version=show(version_of(plan.options)),
            image=image.name if image else None,
            format="safetensors" if plain else "sharded_state",
            files=tuple(weights),
            compared="" if plain else compared(plan.config, version_of(plan.options)),
            scheme=plan.options.scheme,
            serving=plan.options.serving,
            on_miss=cast("OnMiss", plan.options.on_miss),
            cache=cache,
        ),
        repeatable=not plain,
    )


def _texts(plan: Planned[VllmOptions], made: Made) -> list[Part]:
    """Tokenizer and config.json, which names the scheme of the shards, and not that of a source that was unpacked."""
    found = [part.at(part.name) for part in made.tokenizer]
    if copies(plan.config, plan.options):
        return found
    return [
        written(part.path, with_quantization(part.read(), plan.options.scheme)) if part.name == "config.json" else part
        for part in found
    ]


def section_of(manifest: Manifest) -> Shards:
    """Section of a manifest. Raises ArtifactError if it is another target's."""
    return section_as(manifest, Shards, "vllm")


def options_of(manifest: Manifest) -> VllmOptions:
    """Options that an artifact was built with."""
    section = section_of(manifest)
    weights = "shards" if section.rank_files else "plain"
    return VllmOptions(
        image=section.image or "",
        weights=weights,
        version=section.version,
        serving=section.serving,
        on_miss=section.on_miss,
        scheme=section.scheme,
    )
