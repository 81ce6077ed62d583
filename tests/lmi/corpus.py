"""serving.properties of djl-serving's own integration tests: facts for the reader, made by its script at each tag.

corpus.json has a sample: the first file of each list at each tag, and one file of each outcome. The whole comes from
tests/integration/llm/prepare.py of a clone (LMI_COMPILE_DJL_SERVING), run in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TAGS = ("v0.25.0", "v0.26.0", "v0.27.0", "v0.28.0", "v0.29.0", "v0.35.0", "v0.36.0")
SAMPLE = Path(__file__).with_name("corpus.json")
_HARNESS = {"adapter_ids", "adapter_names"}
"""Keys that the script itself takes out before it writes a file."""

_RUN = """
import copy, json, sys, types

source, sys.argv = sys.stdin.read(), ["prepare", "none", "none", "--dtype", "fp16", "--tensor_parallel", "4"]
end = source.find("if args.handler not in supported_handler")
scope = {"__name__": "prepare"}
exec(source if "__main__" in source else source[:end], scope)
scope["args"] = types.SimpleNamespace(dtype="fp16", tensor_parallel=4, engine=None)
written, found = [], []
for name in ("write_model_artifacts", "create_neo_input_model"):
    scope[name] = lambda properties, *rest, **named: written.append(dict(properties))
scope["shutil"] = types.SimpleNamespace(copyfile=lambda *paths: None)
for handler, build in scope["supported_handler"].items():
    names = [name for name in build.__code__.co_names if isinstance(scope.get(name), dict)]
    for model in list(scope[names[0]]) if names else []:
        written.clear()
        kept = copy.deepcopy(scope[names[0]])
        try:
            build(model)
        except ValueError:
            pass
        found += [[handler, model, {key: str(value) for key, value in one.items()}] for one in written]
        scope[names[0]].clear()
        scope[names[0]].update(kept)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class CorpusFile:
    """One file: `group` is the list of the script that has `model`."""

    tag: str
    group: str
    model: str
    properties: dict[str, str]

    @property
    def text(self) -> str:
        return "".join(f"{name}={value}\n" for name, value in self.properties.items())

    @property
    def image(self) -> str:
        """Image in which the integration tests run the list."""
        release = f"{self.tag.removeprefix('v')}"
        if "neuronx" in self.group:
            return f"{release}-neuronx"
        if "vllm" in self.group or "lmi_dist" in self.group:
            return f"{release}-{'lmi' if release >= '0.28' else 'deepspeed'}"
        return release


def sample() -> list[CorpusFile]:
    """Files of corpus.json."""
    return [CorpusFile(*fields) for fields in json.loads(SAMPLE.read_bytes())]


def whole(clone: str) -> list[CorpusFile]:
    """Distinct files of every list at every tag of a clone of djl-serving."""
    found: dict[tuple[str, str, str], CorpusFile] = {}
    for tag in TAGS:
        script = ["git", "-C", clone, "show", f"{tag}:tests/integration/llm/prepare.py"]
        source = subprocess.run(script, capture_output=True, check=True).stdout
        made = subprocess.run([sys.executable, "-c", _RUN], input=source, capture_output=True, check=True).stdout
        for group, model, properties in json.loads(made.splitlines()[-1]):
            kept = {name: value for name, value in properties.items() if name not in _HARNESS}
            one = CorpusFile(tag, group, model, kept)
            found.setdefault((tag, group, one.text), one)
    return list(found.values())
