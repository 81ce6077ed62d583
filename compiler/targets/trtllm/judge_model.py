"""What the judge asks: a rank file by the names of modules, and config.json as the model classes read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.errors import ArtifactError
from compiler.targets.trtllm.judge_math import Array, rounded
from compiler.targets.trtllm.read import Stored

Tensor = Array | Stored
"""In memory, or in a file: both have a shape and give rows as float32."""
Tensors = Mapping[str, Tensor]
"""A rank file: iterating gives names."""
WEIGHT_BITS = {"W8A16": 8, "W4A16": 4}
"""Schemes in which the loader itself rounds plain weights, one scale a row of every linear module but lm_head."""
BLOCK = 16 << 20
"""Bytes of the rows of a matrix that are in memory at a time; converting them takes about as much again, twice."""


class File:
    """One rank's tensors; remembers which were asked for. `block`: see BLOCK; `bits`: see WEIGHT_BITS."""

    def __init__(self, rank: int, tensors: Tensors, block: int = BLOCK, bits: int | None = None) -> None:
        self.rank, self.tensors, self.block, self.bits = rank, tensors, block, bits
        self.read: set[str] = set()

    def get(self, name: str, *shape: int) -> Tensor:
        if name not in self.tensors:
            raise ArtifactError(f"rank {self.rank} has no tensor `{name}` {list(shape)}")
        self.read.add(name)
        tensor = self.tensors[name]
        if tensor.shape != shape:
            raise ArtifactError(
                f"rank {self.rank}: `{name}`: the module's shape is {list(shape)}, found {list(tensor.shape)}"
            )
        return tensor

    def vector(self, name: str, length: int) -> Array:
        return np.asarray(self.get(name, length)[:])

    def maybe(self, name: str, length: int) -> Array | None:
        return self.vector(name, length) if name in self.tensors else None

    def linear(self, x: Array, matrix: Tensor) -> Array:
        """`times` a weight that the loader rounds where the checkpoint's scheme says so."""
        return self.times(x, matrix, self.bits)

    def times(self, x: Array, matrix: Tensor, bits: int | None = None) -> Array:
        """x [S, in] times the transpose of matrix [out, in] -> [S, out], a block of rows after the other."""
        out = np.empty((len(x), matrix.shape[0]), np.float32)
        rows = max(self.block // (4 * matrix.shape[1]), 1)
        for first in range(0, matrix.shape[0], rows):
            values = matrix[first : first + rows]
            out[:, first : first + rows] = x @ (values if bits is None else rounded(values, bits)).T
        return out


@dataclass(frozen=True)
class Model:
    """config.json as the model classes read it."""

    config: Mapping[str, Any]
    world: int

    def __post_init__(self) -> None:
        expected = self.config["mapping"]["world_size"]
        if self.world != expected or self.tp * self.pp != expected:
            raise ArtifactError(f"config.json is for {expected} ranks, tp {self.tp} x pp {self.pp}; found {self.world}")

    @property
    def tp(self) -> int:
        return int(self.config["mapping"]["tp_size"])

    @property
    def pp(self) -> int:
        return int(self.config["mapping"]["pp_size"])

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def hidden(self) -> int:
        return int(self.config["hidden_size"])

    @property
    def vocab_rows(self) -> int:
        """Rows of a table that is split over the vocabulary, on one rank."""
        return -(-int(self.config["vocab_size"]) // self.tp)

    @property
    def heads(self) -> int:
        return int(self.config["num_attention_heads"]) // self.tp

    @property
    def kv_heads(self) -> int:
        return -(-int(self.config["num_key_value_heads"]) // self.tp)

    @property
    def head_size(self) -> int:
        return int(self.config["head_size"])

    @property
    def rotary_dim(self) -> int:
        c = self.config
        dim = c.get("rotary_dim") or c.get("rotary_embedding_dim") or self.head_size * c.get("rotary_pct", 1.0)
        return int(dim)

    @property
    def ffn(self) -> int:
        """Width of the dense mlp on one rank. Qwen 1 counts gate and up together."""
        width = int(self.config["intermediate_size"])
        return (width // 2 if self.config.get("qwen_type") == "qwen" else width) // self.tp

    @property
    def experts(self) -> int:
        return int(self.config.get("moe", {}).get("num_experts") or self.config.get("moe_num_experts") or 0)

    @property
    def moe_split(self) -> tuple[int, int]:
        """moe_tp, moe_ep. Before 0.11 a mode says which of the two all ranks are: 1 whole experts, 2 columns."""
        mapping = self.config["mapping"]
        if "moe_num_experts" in self.config:
            return (1, self.tp) if self.config["moe_tp_mode"] == 1 else (self.tp, 1)
        return int(mapping.get("moe_tp_size", self.tp)), int(mapping.get("moe_ep_size", 1))
