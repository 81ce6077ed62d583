"""Parts of target `neuron`."""

from __future__ import annotations

from compiler.targets.neuron.options import NeuronOptions
from compiler.targets.neuron.support import NeuronSupport
from compiler.targets.protocols import Compiler, Packager, Runtime, Target

TARGET = Target(
    name="neuron",
    options=NeuronOptions,
    support=NeuronSupport(),
    layout=None,
    compiler=Compiler[NeuronOptions](),
    packager=Packager[NeuronOptions](),
    runtime=Runtime(),
)
