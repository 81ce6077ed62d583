"""Files of a compiled cache in an artifact: archive, report, carrier, and the configuration of the server.

cache.tar.gz bake.json    lmi_boot/ lmi_boot-1.dist-info/    serving.properties environment.json

The artifact's folder is the model's folder. LMI puts it on PYTHONPATH, so vLLM finds the carrier there; for an AWS vLLM
container environment.json has PYTHONPATH among its variables.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from compiler.artifact.parts import written
from compiler.lmi import java_properties
from compiler.lmi.properties import SERVING_PROPERTIES
from compiler.targets.vllm.cache import cache_of
from compiler.targets.vllm.environment import FORCED, pinned
from compiler.targets.vllm.script import SCRIPT, script
from compiler.targets.vllm.server import carrier_files
from compiler.targets.vllm.serving import MODEL_PATH, Serving, lmi_properties, sagemaker_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.artifact.parts import Part
    from compiler.targets.values import Made
    from compiler.targets.vllm.cache import CompiledCache

ENVIRONMENT = "environment.json"
"""Environment of an AWS vLLM container that serves the artifact."""
OWN = (SCRIPT, SERVING_PROPERTIES, ENVIRONMENT)
"""Files that a cache adds or replaces."""
SERVED_ROOT = "/tmp/lmi-cache"  # noqa: S108  # in a container; /opt/ml/model is read-only
"""Folder that the carrier restores the cache to."""


def served_environment(cache: CompiledCache) -> dict[str, str]:
    """Variables of the server that serves, besides those of its image."""
    return {**pinned(cache.dialect, cache.device, SERVED_ROOT, {}), **FORCED[cache.dialect]}


def cache_files(made: Made, image: str) -> tuple[list[Part], CompiledCache | None]:
    """Files of the cache, and its section. If nothing was compiled: the script that compiles in `image`, and None."""
    compiled = {part.name: part for part in made.compiled.get("cache", ())}
    if not compiled:
        return [written(SCRIPT, script(image), executable=True)], None
    archive, report = compiled["cache.tar.gz"], compiled["bake.json"]
    cache = cache_of(archive, report)
    serving = Serving(**json.loads(report.read())["serving"])
    files = {**carrier_files(), **configuration(serving, served_environment(cache))}
    return [archive, report, *(written(path, data) for path, data in files.items())], cache


def configuration(serving: Serving, environment: Mapping[str, str]) -> dict[str, bytes]:
    """serving.properties of LMI, and environment.json of an AWS vLLM container."""
    variables = sagemaker_environment(serving, {**environment, "PYTHONPATH": MODEL_PATH})
    return {
        SERVING_PROPERTIES: java_properties.emit(lmi_properties(serving, environment)),
        ENVIRONMENT: (json.dumps(variables, indent=1, sort_keys=True) + "\n").encode(),
    }
