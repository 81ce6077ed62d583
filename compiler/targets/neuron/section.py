"""Section of target `neuron` in the manifest."""

from __future__ import annotations

from compiler.artifact.sections import Section


class NeuronFiles(Section, extra="forbid"):
    """Files for NeuronCores."""


SECTION = NeuronFiles
