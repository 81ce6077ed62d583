"""Inputs of the judge: rank files by tensor name, and config.json as the model classes read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.errors import ArtifactError
from compiler.targets.trtllm.judge_math import Array
from compiler.targets.trtllm.read import StoredTensor

Tensor = Array | StoredTensor
"""Tensor in memory or in a file: both have a shape, and rows that are float32."""
Tensors = Mapping[str, Tensor]
"""Rank file: tensors by name."""
Widen = Callable[[Array, int], Array]
BLOCK = 16 << 20
"""Bytes of a matrix's rows in memory at a time; their conversion takes about twice as much in addition."""

BUG = "another program wrote the checkpoint, or this one has a bug: build it again, or report it"
"""Hint of errors that a checkpoint of this program never gives."""


class RankReader:
    """Tensors of one rank, with a record of those that were read. `block`: see BLOCK; `algo`, `kv_algo`: quant_algo and
    kv_cache_quant_algo of config.json, "" for none; `group`: its group_size, neighbors in a row that share a scale.
    """

    def __init__(
        self, rank: int, tensors: Tensors, block: int = BLOCK, algo: str = "", kv_algo: str = "", group: int = 128
    ) -> None:
        self.rank, self.tensors, self.block = rank, tensors, block
        self.algo, self.kv_algo, self.group = algo, kv_algo, group
        self.read: set[str] = set()

    def get(self, name: str, *shape: int) -> Tensor:
        if name not in self.tensors:
            raise ArtifactError(f"rank {self.rank} has no tensor `{name}` {list(shape)}", hint=BUG)
        self.read.add(name)
        tensor = self.tensors[name]
        if tensor.shape != shape:
            raise ArtifactError(
                f"rank {self.rank}: `{name}`: the module's shape is {list(shape)}, found {list(tensor.shape)}", hint=BUG
            )
        return tensor

    def vector(self, name: str, length: int) -> Array:
        return np.asarray(self.get(name, length)[:])

    def maybe(self, name: str, length: int) -> Array | None:
        return self.vector(name, length) if name in self.tensors else None

    def row(self, name: str, length: int) -> Array:
        """Tensor of one row: [1, length]."""
        return np.asarray(self.get(name, 1, length)[0:1])

    def number(self, name: str) -> np.float32:
        """Element of a tensor [1]."""
        return np.float32(np.asarray(self.get(name, 1)[0:1]).item())

    def times(self, x: Array, matrix: Tensor, widen: Widen | None = None, packed: int = 1) -> Array:
        """Product of x [..., in] with the transpose of matrix [out / packed, in] -> [..., out], in blocks of rows.

        `widen(stored rows, index of the first)` returns `packed` times as many rows of the weight. Every block is read
        and widened once for all tokens.
        """
        flat = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
        out = np.empty((len(flat), packed * matrix.shape[0]), np.float32)
        rows = max(self.block // (4 * matrix.shape[1]), 1)
        for first in range(0, matrix.shape[0], rows):
            values = matrix[first : first + rows]
            block = values if widen is None else widen(values, first)
            out[:, packed * first : packed * (first + rows)] = flat @ block.T
        return out.reshape(*x.shape[:-1], out.shape[-1])


@dataclass(frozen=True)
class JudgedModel:
    """config.json as the model classes read it."""

    config: Mapping[str, Any]
    world: int

    def __post_init__(self) -> None:
        expected = self.config["mapping"]["world_size"]
        if self.world != expected or self.tp * self.pp != expected:
            raise ArtifactError(
                f"config.json is for {expected} ranks, tp {self.tp} x pp {self.pp}; found {self.world}", hint=BUG
            )

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
        """Rows on one rank of a table that is split over the vocabulary."""
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
        """Split of the experts: (moe_tp, moe_ep). Before 0.11 a mode selects one: 1 whole experts, 2 columns."""
        mapping = self.config["mapping"]
        if "moe_num_experts" in self.config:
            return (1, self.tp) if self.config["moe_tp_mode"] == 1 else (self.tp, 1)
        return int(mapping.get("moe_tp_size", self.tp)), int(mapping.get("moe_ep_size", 1))
