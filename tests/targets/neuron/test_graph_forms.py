"""Forms of graphs: what neuronx-cc reads, and equal bytes for equal plans."""

from __future__ import annotations

import getpass
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from compiler.errors import RefusedError
from compiler.targets.neuron.graph import lint
from compiler.targets.neuron.graph.lower import lower
from compiler.targets.neuron.graph.proto import entry_of, groups_of, parse, serialize
from compiler.targets.neuron.graph.signature import STEP, GraphSpec, aliases, graph_specs, inputs, outputs
from compiler.targets.neuron.parameters import parameters
from tests.targets.neuron.graphs import plan_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from compiler.targets.neuron.plan import NeuronPlan

DIGEST = """
import hashlib
from compiler.targets.neuron.graph.lower import lower
from compiler.targets.neuron.graph.signature import graph_specs
from tests.targets.neuron.graphs import plan_of
plan = plan_of("mixtral", 4)
for spec in reversed(graph_specs(plan)):
    print(spec.name, hashlib.sha256(lower(plan, spec)).hexdigest())
"""


@pytest.fixture(scope="module")
def plan() -> NeuronPlan:
    return plan_of("mixtral", 4)


@pytest.fixture(scope="module")
def graphs(plan: NeuronPlan) -> dict[GraphSpec, bytes]:
    return {spec: lower(plan, spec) for spec in graph_specs(plan)}


def test_equal_plans_give_equal_bytes_in_every_process(graphs: dict[GraphSpec, bytes]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIGEST],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found == {spec.name: hashlib.sha256(data).hexdigest() for spec, data in graphs.items()}


def test_a_graph_names_no_file_and_no_user(graphs: dict[GraphSpec, bytes]) -> None:
    for data in graphs.values():
        for text in (str(Path.cwd()), ".py", sys.prefix, getpass.getuser() + "@"):
            assert text.encode() not in data


def test_parameters_have_the_order_of_the_manifest(plan: NeuronPlan, graphs: dict[GraphSpec, bytes]) -> None:
    """As jaxlib reads the bytes, not the writer's own schema."""
    from jax.extend.mlir import hlo_to_stablehlo
    from jaxlib.xla_client import XlaComputation

    for spec, data in graphs.items():
        shape = XlaComputation(data).program_shape()
        found = [tuple(one.dimensions()) for one in shape.parameter_shapes()]
        assert found == [one.shape for one in inputs(plan, spec)]
        assert hlo_to_stablehlo(data)
        names = list(entry_of(parse(data)).program_shape.parameter_names)
        caches = [f"layers.{i}.cache_{part}" for i in range(plan.config.layers) for part in "kv"]
        assert names == [*STEP, *caches, *(one.name for one in parameters(plan))]


def test_every_cache_is_updated_in_its_own_buffer(plan: NeuronPlan, graphs: dict[GraphSpec, bytes]) -> None:
    from jaxlib.xla_client import XlaComputation

    for data in graphs.values():
        text = XlaComputation(data).as_hlo_text()
        header = text.splitlines()[0]
        assert header.count("must-alias") == 2 * plan.config.layers
        first = len(STEP)
        assert f"{{1}}: ({first}, {{}}, must-alias)" in header


def test_collectives_are_between_replicas(graphs: dict[GraphSpec, bytes]) -> None:
    for data in graphs.values():
        found = [one for one in _instructions(parse(data)) if one.opcode in lint.COLLECTIVES]
        assert len(found) == 1 + 2 * 3  # the embedding, then attention and mlp of three layers
        assert {groups_of(one) for one in found} == {((0, 1, 2, 3),)}
        assert not any(one.channel_id or one.use_global_device_ids for one in found)


def _instructions(module: Any) -> list[Any]:
    return [one for computation in module.computations for one in computation.instructions]


def _first(module: Any, opcode: str) -> Any:
    return next(one for one in _instructions(module) if one.opcode == opcode)


def _rename(module: Any) -> None:
    _first(module, "dot").opcode = "custom-call"


def _widen(module: Any) -> None:
    _first(module, "iota").shape.element_type = 5


def _partition(module: Any) -> None:
    _first(module, "all-reduce").channel_id = 1


def _regroup(module: Any) -> None:
    del _first(module, "all-reduce").replica_groups[0].replica_ids[0]


def _large_id(module: Any) -> None:
    _first(module, "dot").id = 1 << 32


def _not_a_number(module: Any) -> None:
    one = next(one for one in _instructions(module) if one.opcode == "constant" and one.literal.f32s)
    one.literal.f32s[0] = float("nan")


def _dynamic(module: Any) -> None:
    _first(module, "add").shape.is_dynamic_dimension[:] = [True]


def _without_alias(module: Any) -> None:
    del module.input_output_alias.entries[0]


def _other_parameter(module: Any) -> None:
    entry_of(module).program_shape.parameters[0].dimensions[0] += 1


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (_rename, "operation `custom-call"),
        (_widen, "dtype `s64`"),
        (_partition, "between partitions"),
        (_regroup, "expected each of 4 ranks once"),
        (_large_id, "ids of instructions"),
        (_not_a_number, "NaN"),
        (_dynamic, "dynamic shape"),
        (_without_alias, "in the buffers of their inputs"),
        (_other_parameter, "parameter 0 of"),
    ],
)
def test_the_lint_finds_what_neuronx_cc_rejects(
    plan: NeuronPlan, graphs: dict[GraphSpec, bytes], break_it: Callable[[Any], None], text: str
) -> None:
    spec, data = list(graphs.items())[-1]
    module = parse(data)
    break_it(module)
    rest = plan.tp, inputs(plan, spec), outputs(plan, spec), aliases(plan)
    assert any(text in line for line in lint.problems(serialize(module), *rest))
    assert not lint.problems(data, *rest)


def test_mathematics_that_graphs_lack_is_refused_by_name() -> None:
    plan = plan_of("gpt_oss", 2)
    with pytest.raises(RefusedError, match="attention sinks"):
        lower(plan, graph_specs(plan)[0])
