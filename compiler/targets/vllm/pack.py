"""Files of a compiled cache in an artifact: archive, report, carrier, and the configuration of the server.

cache.tar.gz bake.json    lmi_boot/ lmi_boot-1.dist-info/    serving.properties environment.json

The artifact's folder is the model's folder. LMI puts it on PYTHONPATH, so vLLM finds the carrier there; for an AWS vLLM
container environment.json has PYTHONPATH among its variables.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from compiler.artifact.parts import written
from compiler.lmi import java_properties
from compiler.lmi.properties import SERVING_PROPERTIES
from compiler.targets.vllm.cache import cache_of
from compiler.targets.vllm.environment import FORCED, pinned
from compiler.targets.vllm.script import SCRIPT, script
from compiler.targets.vllm.server import carrier_files
from compiler.targets.vllm.serving import MODEL_PATH, Serving, lmi_properties, sagemaker_environment

if TYPE_CHECKING:
    from compiler.artifact.parts import Part
    from compiler.targets.values import Made
    from compiler.targets.vllm.cache import CompiledCache
    from compiler.targets.vllm.images import VllmImage
    from compiler.targets.vllm.options import VllmOptions

ENVIRONMENT = "environment.json"
"""Environment of an AWS vLLM container that serves the artifact."""
OWN = (SCRIPT, SERVING_PROPERTIES, ENVIRONMENT)
"""Files that a cache adds or replaces."""
SERVED_ROOT = "/tmp/lmi-cache"  # noqa: S108  # in a container; /opt/ml/model is read-only
"""Folder that the carrier restores the cache to."""


def served_environment(cache: CompiledCache, on_miss: str) -> dict[str, str]:
    """Variables of the server that serves, besides those of its image. `on_miss`: see VllmOptions."""
    fails = {"LMI_BOOT_ON_MISS": on_miss} if on_miss != "warn" else {}
    return {**pinned(cache.dialect, cache.device, SERVED_ROOT, {}), **FORCED[cache.dialect], **fails}


def container_environment(cache: CompiledCache, image: VllmImage | None, on_miss: str) -> dict[str, str]:
    """Environment of an AWS vLLM container that serves the artifact: arguments and variables, the carrier's path."""
    paths = (MODEL_PATH, *filter(None, [image.environment.get("PYTHONPATH", "") if image else ""]))
    variables = {**served_environment(cache, on_miss), "PYTHONPATH": os.pathsep.join(paths)}
    arguments: dict[str, Any] = dict(cache.serving)
    return sagemaker_environment(Serving(**arguments), variables)


def cache_files(made: Made, image: VllmImage | None, options: VllmOptions) -> tuple[list[Part], CompiledCache | None]:
    """Files of the cache, and its section. If nothing was compiled: the script that compiles in `image`, and None."""
    compiled = {part.name: part for part in made.compiled.get("cache", ())}
    if not compiled:
        name = options.image or (image.name if image else "")
        return [written(SCRIPT, script(name), executable=True)], None
    archive, report = compiled["cache.tar.gz"], compiled["bake.json"]
    cache = cache_of(archive, report)
    serving = Serving(**json.loads(report.read())["serving"])
    properties = lmi_properties(serving, served_environment(cache, options.on_miss))
    variables = container_environment(cache, image, options.on_miss)
    files = {
        **carrier_files(),
        SERVING_PROPERTIES: java_properties.emit(properties),
        ENVIRONMENT: (json.dumps(variables, indent=1, sort_keys=True) + "\n").encode(),
    }
    return [archive, report, *(written(path, data) for path, data in files.items())], cache
