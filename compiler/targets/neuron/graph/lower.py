"""Lowering of a graph to bytes: shapes alone, no weights, no devices. Equal plans give equal bytes on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax

from compiler.errors import CompileError, RefusedError
from compiler.machine import extra_command
from compiler.targets.neuron.graph import lint
from compiler.targets.neuron.graph.canonical import canonical
from compiler.targets.neuron.graph.model import program
from compiler.targets.neuron.graph.shards import NUMPY
from compiler.targets.neuron.graph.signature import aliases, inputs, outputs
from compiler.targets.neuron.graph.support import lacking

if TYPE_CHECKING:
    from compiler.targets.neuron.graph.signature import GraphSpec
    from compiler.targets.neuron.plan import NeuronPlan


def lower(plan: NeuronPlan, spec: GraphSpec) -> bytes:
    """Serialized HloModuleProto of one graph of a plan, the same for every rank.

    Raises:
        RefusedError: graphs lack mathematics of the model.
        CompileError: the lowered module breaks a rule of `lint.py`: another version of jax than the pinned one.
    """
    if missing := lacking(plan.config):
        raise RefusedError(
            f"graphs for NeuronCores lack {', '.join(missing)}, which {plan.config.architecture} has",
            hint="choose another `--target`",
        )
    given, made, buffers = inputs(plan, spec), outputs(plan, spec), aliases(plan)
    shapes = [jax.ShapeDtypeStruct(one.shape, NUMPY[one.dtype]) for one in given]
    lowered = jax.jit(program(plan, spec), keep_unused=True).trace(*shapes).lower(lowering_platforms=("cpu",))
    raw = lowered.compiler_ir("hlo").as_serialized_hlo_module_proto()
    data = canonical(raw, spec.name, [one.name for one in given], buffers)
    if found := lint.problems(data, plan.tp, given, made, buffers):
        raise CompileError(
            "\n".join([f"graph {spec.name} breaks rules of neuronx-cc:", *(f"  {line}" for line in found[:20])]),
            hint=f"install the pinned jax (`{extra_command('neuron')}`); this one is {jax.__version__}",
        )
    return data
