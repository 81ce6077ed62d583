"""Table of the architectures that target `neuron` takes; no other file of this target names architectures.

`tnx`, `nxdi`, `optimum`: whether that library has a model class. Sources: `modeling_auto.py` of transformers-neuronx
0.13 (December 2024); LMI's tutorial on ahead-of-time compilation (releases; djl-serving, November 2025); `models/` of
neuronx-distributed-inference 0.10 (July 2026); the registry of text generation in optimum-neuron (August 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.errors import RefusedError

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig


@dataclass(frozen=True)
class NeuronModel:
    """Libraries that load an architecture. `tnx_since`: first LMI release whose loader has it."""

    tnx: bool = False
    nxdi: bool = False
    optimum: bool = False
    tnx_since: tuple[int, int] = (0, 25)


ROWS: Mapping[str, NeuronModel] = {
    "LlamaForCausalLM": NeuronModel(tnx=True, nxdi=True, optimum=True),
    "MistralForCausalLM": NeuronModel(tnx=True, nxdi=True, tnx_since=(0, 26)),
    "MixtralForCausalLM": NeuronModel(tnx=True, nxdi=True, optimum=True, tnx_since=(0, 29)),
    "Qwen2ForCausalLM": NeuronModel(nxdi=True, optimum=True),
    "GPT2LMHeadModel": NeuronModel(tnx=True),
    "GPTJForCausalLM": NeuronModel(tnx=True),
    "GPTBigCodeForCausalLM": NeuronModel(),
}
"""Architectures whose graphs are made."""


def row_for(config: ModelConfig) -> NeuronModel:
    """Row of an architecture. Raises RefusedError for one without."""
    found = ROWS.get(config.architecture)
    if found is None:
        raise RefusedError(
            f"target `neuron` does not support {config.architecture}: this target has no row for it",
            hint=f"it takes {', '.join(ROWS)}; other models: `lmi-compile models` lists their targets",
        )
    return found
