"""Files of a neuron artifact.

    weights/tp{r}_sharded_checkpoint.safetensors    our shards; shards.json says which head is in which slot
    graphs/NAME.hlo_module.pb, graphs/graphs.json   graphs; inputs and outputs of each, in order
    graphs/proof.json                               what was executed here, and how far its logits are from the model's
    plan.json                                       the plan
    presharded/                                     weights for transformers-neuronx (`--presharded`)
    compile-neuron.sh, and the driver's own script  before graphs are compiled, or the driver has run
    cache/neuronxcc-V/MODULE_x+y/...                executables in the layout of the compiler's persistent cache

After a driver has run, the artifact is what its library made, at the root as the container reads it, with plan.json,
the tokenizer, and endpoint.env: variables of the container; cache/ has the compile cache of the run, restart.txt what a
second process compiled (restart.py). Our shards and graphs stay with the build.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from compiler.artifact.parts import Part, written
from compiler.artifact.sections import section_as
from compiler.targets.neuron.drivers.choice import GRAPH, driver_of
from compiler.targets.neuron.drivers.driver import files_of
from compiler.targets.neuron.graph.signature import graph_specs, inputs, outputs
from compiler.targets.neuron.neuronx import STAND_IN, cache_folder_of, compiler_flags
from compiler.targets.neuron.options import NeuronOptions
from compiler.targets.neuron.platforms import platform_of
from compiler.targets.neuron.restart import RECORD, restart_of
from compiler.targets.neuron.script import SCRIPT, driver_script, environment_text, graph_script
from compiler.targets.neuron.section import HloGraph, NeuronFiles
from compiler.targets.neuron.specs import HLO, NEFF, PRESHARDED, PROOF, VENDOR, VERSION
from compiler.targets.neuron.support import plan_of
from compiler.targets.values import Contents, Made, Planned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.artifact.manifest import Manifest
    from compiler.targets.neuron.drivers.driver import ServedAs, VendorDriver
    from compiler.targets.neuron.plan import NeuronPlan
    from compiler.targets.neuron.platforms import Platform

PLAN, GRAPHS, ENVIRONMENT = "plan.json", "graphs/graphs.json", "endpoint.env"


def contents(plan: Planned[NeuronOptions], made: Made) -> Contents:
    """Files before or after compilation, by what `made` has."""
    found = plan_of(plan.config, plan.tp, plan.limits, plan.dtype, plan.options)
    driver, platform = driver_of(plan.options, found), platform_of(plan.options.instance)
    about = written(PLAN, json_bytes(plan_json(found)))
    if driver is not None and VENDOR in made.compiled:
        return _of_driver(plan, found, driver, made, about)
    graphs, cached, stand_in = _graphs(found, made, platform)
    names = [graph.name for graph in graph_specs(found)]
    more = [about, written(GRAPHS, json_bytes(signatures(found)))]
    more += [part.inside("graphs") for part in made.compiled.get(PROOF, ())]
    if driver is not None:
        run = driver.run(found, platform.name)
        more += [written(name, data) for name, data in files_of(run).items()]
        more += [part.inside(PRESHARDED) for part in made.compiled.get(PRESHARDED, ())]
        more.append(written(SCRIPT, driver_script(driver, run, ""), executable=True))
    elif graphs and not all(graph.neff for graph in graphs):
        more.append(written(SCRIPT, graph_script(names, platform), executable=True))
    section = _section(plan, found, driver, [part for part in made.weights if part.name.startswith("tp")], graphs)
    compiled = [
        part.inside("graphs") for name in names for part in made.compiled.get(name, ()) if part.name.endswith(HLO)
    ]
    return Contents([*made.weights, *compiled, *cached, *more, *made.tokenizer], section, stand_in=stand_in)


def _graphs(plan: NeuronPlan, made: Made, platform: Platform) -> tuple[tuple[HloGraph, ...], list[Part], bool]:
    """Graphs with their executables, files of the persistent cache, and whether a stand-in compiled them."""
    found, files, stand_in = [], list[Part](), False
    for spec in graph_specs(plan):
        parts = {part.name.rpartition(f"{spec.name}.")[2]: part for part in made.compiled.get(spec.name, ())}
        if HLO not in parts:
            continue
        neff = None
        if NEFF in parts:
            version, hlo = parts[VERSION].read().decode().strip(), parts[HLO].read()
            folder = f"cache/{cache_folder_of(version, hlo, compiler_flags(platform))}"
            neff, stand_in = f"{folder}/model.neff", stand_in or version.endswith(STAND_IN)
            flags = json_bytes(list(compiler_flags(platform)))
            files += [parts[NEFF].at(neff), written(f"{folder}/model.hlo_module.pb", hlo)]
            files += [written(f"{folder}/compile_flags.json", flags), written(f"{folder}/model.done", b"")]
        hlo_path = f"graphs/{spec.name}.{HLO}"
        found.append(HloGraph(kind=spec.kind, length=spec.bucket, rows=spec.batch, hlo=hlo_path, neff=neff))
    return tuple(found), files, stand_in


def _of_driver(
    plan: Planned[NeuronOptions], found: NeuronPlan, driver: VendorDriver, made: Made, about: Part
) -> Contents:
    """Result of the driver's library, and files of the container."""
    result = [_inside(part) for part in made.compiled[VENDOR]]
    names = {part.path for part in result}
    served = driver.served(found)
    texts = [part.at(part.name) for part in made.tokenizer if part.name not in names]
    more = [written(name, data) for name, data in served.files.items()]
    more.append(written(ENVIRONMENT, environment_text(served.environment)))
    section = _section(plan, found, driver, (), (), tuple(sorted(names)))
    records = [restart_of(part.read().decode()).text for part in result if part.path == RECORD]
    section = section.model_copy(update={"restart": records[0] if records else ""})
    stand_in = any(STAND_IN in name for name in names)
    return Contents([*result, *texts, *more, about, *made.tokenizer], section, repeatable=False, stand_in=stand_in)


def _inside(part: Part) -> Part:
    """Part of the driver's result at its place below the root."""
    return part.at(part.path.removeprefix(f"{VENDOR}/"))


def _section(
    plan: Planned[NeuronOptions],
    found: NeuronPlan,
    driver: VendorDriver | None,
    shards: Sequence[Part],
    graphs: tuple[HloGraph, ...],
    vendor: tuple[str, ...] = (),
) -> NeuronFiles:
    options, platform = plan.options, platform_of(plan.options.instance)
    served: ServedAs | None = driver.served(found) if driver else None
    return NeuronFiles(
        driver=driver.name if driver else GRAPH,
        platform=platform.name,
        instance=options.instance,
        strategy=found.heads.strategy,
        over_sequence=found.heads.sequence_shards > 1,
        context_buckets=found.buckets.context,
        token_buckets=found.buckets.token,
        batches=found.batches,
        continuous_batching=found.continuous_batching,
        weights=options.weights,
        shards=tuple(part.path for part in sorted(shards, key=_rank)),
        graphs=graphs,
        vendor=vendor,
        presharded=options.presharded and not vendor,
        image=options.image or (driver.images[platform.name] if driver else None),
        command=served.command if served else (),
        environment=dict(served.environment) if served else {},
    )


def _rank(part: Part) -> int:
    """Rank of a shard by its name, `tp12_sharded_checkpoint.safetensors`."""
    return int(part.name.removeprefix("tp").partition("_")[0])


def plan_json(plan: NeuronPlan) -> dict[str, Any]:
    """Plan for loaders: heads, padding, buckets and caches."""
    heads = plan.heads
    return {
        "architecture": plan.config.architecture,
        "tp": plan.tp,
        "heads": asdict(heads) | {"replication": heads.replication, "groups": heads.kv_groups},
        "batches": plan.batches,
        "sequence_length": plan.sequence_length,
        "buckets": asdict(plan.buckets),
        "continuous_batching": plan.continuous_batching,
        "dtype": plan.dtype,
        "weights": plan.weights,
        "padded": {"vocab": plan.vocab_padded, "ffn": plan.ffn_padded, "hidden": plan.hidden_padded},
        "cache_shape": plan.cache_shape,
        "cache_bytes_per_rank": plan.cache_bytes,
    }


def signatures(plan: NeuronPlan) -> dict[str, Any]:
    """Inputs and outputs of every graph in order, by its name."""
    return {
        spec.name: {
            "kind": spec.kind,
            "bucket": spec.bucket,
            "batch": spec.batch,
            "inputs": [one.to_json() for one in inputs(plan, spec)],
            "outputs": [one.to_json() for one in outputs(plan, spec)],
        }
        for spec in graph_specs(plan)
    }


def json_bytes(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def section_of(manifest: Manifest) -> NeuronFiles:
    """Section of a manifest. Raises ArtifactError if it is another target's."""
    return section_as(manifest, NeuronFiles, "neuron")


def options_of(manifest: Manifest) -> NeuronOptions:
    """Options that an artifact was built with."""
    section = section_of(manifest)

    def listed(values: Sequence[int]) -> str:
        return ",".join(map(str, values))

    return NeuronOptions(
        group_query_attention=section.strategy,
        shard_over_sequence=section.over_sequence,
        buckets=listed(section.token_buckets),
        context_buckets=listed(section.context_buckets) or "0",
        batch_sizes=listed(section.batches[:-1]),
        continuous_batching=section.continuous_batching,
        neuron_driver=section.driver,
        presharded=section.presharded,
        image=section.image or "",
        instance=section.instance,
        weights=section.weights,
    )
