import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

from compiler.artifact.manifest import Device
from compiler.targets.protocols import Compiler, Packager, Runtime, Support, Target
from compiler.targets.runners import Runner
from compiler.targets.values import TREE, Contents, Sources

from .options import ToyOptions
from .section import Graphs


@dataclass(frozen=True)
class GraphSpec:
    cores: int
    source: str
    name = "graphs"
    outputs = TREE
    to_json = asdict


class Press:
    stand_in = False

    def versions(self, device: str) -> dict[str, str]:
        return {"press": f"1.0 for {device}"}

    def compile(self, specs: Any, out: Any, how: Any, *, device: Device, sources: Sources, progress: Any) -> None:
        (config,) = (part.read() for part in sources.tokenizer if part.name == "config.json")
        assert (sources.checkpoint / "model.safetensors").is_file()
        for spec, core in ((one, core) for one in specs for core in range(one.cores)):
            file = out / spec.name / f"core{core}" / f"{json.loads(config)['model_type']}.bin"
            file.parent.mkdir(parents=True)
            file.write_text(spec.source)
            progress(1, 1)


class ToyCompiler(Compiler[ToyOptions]):
    def toolchain(self) -> Press:
        return Press()

    def device(self, how: Any) -> Device:
        return Device(kind="toycore")

    def specs(self, plan: Any, source: str) -> list[Any]:
        return [GraphSpec(plan.options.cores, source)]


class ToyPackager(Packager[ToyOptions]):
    def contents(self, plan: Any, made: Any) -> Contents:
        graphs = [part.at(f"graphs/{part.path}") for part in made.compiled["graphs"]]
        section = Graphs(cores=plan.options.cores, graphs=tuple(part.path for part in graphs))
        return Contents([*graphs, *made.tokenizer], section)


class ToyRunner(Runner):
    def logits(self, folder: Any, rows: Any) -> Any:
        from tests.passages import stored_logits

        return stored_logits(folder)  # as if it computed them

    def once(self, folder: Any, prompt: str, max_new_tokens: int) -> list[str]:
        answer = {"seconds_to_load": 0.5, "seconds_to_first_token": 0.25, "finish_reason": "length", "text": prompt}
        return [sys.executable, "-c", f"print({json.dumps(json.dumps(answer))})"]


class ToyRuntime(Runtime):
    def runner(self, manifest: Any, max_memory: int) -> Runner:
        return ToyRunner()

    def unproven(self, manifest: Any) -> str:
        return ""


TARGET = Target(
    name="toy", options=ToyOptions, support=Support[ToyOptions](), layout=None, compiler=ToyCompiler(),
    packager=ToyPackager(), runtime=ToyRuntime(),
)  # fmt: skip
