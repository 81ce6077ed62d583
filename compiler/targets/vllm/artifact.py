"""Files of a vLLM artifact: the folder that a container mounts as /opt/ml/model.

config.json tokenizer*    model-rank-{r}-part-0.safetensors    manifest.json    and those of the cache (pack.py)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import ArtifactError
from compiler.targets.values import Contents, Made, Planned
from compiler.targets.vllm.layout import rank_file
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.pack import cache_files
from compiler.targets.vllm.section import Shards
from compiler.targets.vllm.version import image_of, show, version_of

if TYPE_CHECKING:
    from compiler.artifact.manifest import Manifest


def contents(plan: Planned[VllmOptions], made: Made) -> Contents:
    """Shards and tokenizer, side by side."""
    image = image_of(plan.options)
    files, cache = cache_files(made)
    return Contents(
        [*made.weights, *(part.at(part.name) for part in made.tokenizer), *files],
        Shards(
            version=show(version_of(plan.options)),
            image=image.name if image else None,
            format="sharded_state",
            files=tuple(rank_file(rank) for rank in range(plan.tp)),
            compared="",
            scheme=plan.options.scheme,
            cache=cache,
        ),
    )


def section_of(manifest: Manifest) -> Shards:
    """Section of a manifest. Raises ArtifactError if it is another target's."""
    if isinstance(manifest.section, Shards):
        return manifest.section
    raise ArtifactError(
        f"`{manifest.name}`: expected the section of target `vllm`; found target `{manifest.target}`",
        hint="use an artifact that was built with `--target vllm`",
    )


def options_of(manifest: Manifest) -> VllmOptions:
    """Options that an artifact was built with."""
    section = section_of(manifest)
    return VllmOptions(image=section.image or "", version=section.version, scheme=section.scheme)
