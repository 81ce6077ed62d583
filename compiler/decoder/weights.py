"""Weights under the decoder's names, read on demand from a checkpoint or from a rank file.

Matrices keep their stored dtype (`compiler.decoder.wide` computes with them); all else is float32.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.decoder.rankfile.layout import rank_plans
from compiler.errors import RefusedError
from compiler.model.lazy import ITEMSIZE, read, take
from compiler.storage.files.cast import CASTABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.model.config import ModelConfig
    from compiler.model.lazy import Lazy
    from compiler.model.roles import TensorId
    from compiler.storage.checkpoints.checkpoint import Checkpoint


class StoredModel:
    """Weights of a checkpoint. Raises RefusedError for dtypes without a cast."""

    def __init__(self, config: ModelConfig, tensors: Mapping[TensorId, Lazy], checkpoint: Checkpoint) -> None:
        self.config, self._canonical, self._checkpoint = config, tensors, checkpoint
        (plan,) = rank_plans(config, 1, tensors, "F32")
        self._tensors = dict(plan.tensors)
        wrong = {t.source_dtype for t in tensors.values()} - set(CASTABLE)
        if wrong:
            raise RefusedError(
                f"calibration and gate read weights in {', '.join(CASTABLE)}; found {', '.join(sorted(wrong))}",
                hint="use a checkpoint in one of these dtypes",
            )

    def __contains__(self, tensor: TensorId) -> bool:
        return tensor in self._canonical

    def canonical(self, tensor: TensorId) -> NDArray[np.float32]:
        """Canonical tensor in float32, one dimension per axis."""
        found: NDArray[np.float32] = self._read(self._canonical[tensor], self._source).float().numpy()
        return found

    @property
    def largest_layer(self) -> int:
        """Bytes of the largest layer as stored."""
        return max(sum(map(_stored, layer)) for layer in self._layers())

    @property
    def largest_layer_in_float32(self) -> int:
        """Bytes of the largest layer in float32, with the stored tensor that is being widened."""
        return max(4 * sum(prod(t.shape) for t in layer) + max(map(_stored, layer)) for layer in self._layers())

    def layer(self, layer: int) -> dict[str, Tensor]:
        """Tensors of one layer, by their names in it."""
        prefix = f"layers.{layer}."
        return {name: _wide(self._read(lazy, self._source)) for name, lazy in self._of(prefix).items()}

    def layer_in_float32(self, layer: int) -> dict[str, Tensor]:
        """Tensors of one layer, all in float32."""
        prefix = f"layers.{layer}."
        return {name: self._read(lazy, self._source).float() for name, lazy in self._of(prefix).items()}

    def head(self) -> dict[str, Tensor]:
        """Weights of the head segment."""
        names = [name for name in self._tensors if _of_head(name, tied=self.config.tied)]
        return {name: _wide(self._read(self._tensors[name], self._source)) for name in names}

    def embedding(self, used: NDArray[np.int64]) -> dict[str, Tensor]:
        """Rows `used` of the embedding, in this order, its norm and the learned positions if any; float32."""
        import torch

        table, source = self._tensors["embed.weight"], cache(self._source)
        found = {
            "embed.weight": torch.cat([self._read(take(table, 0, i, i + 1), source) for i in used.tolist()]).float()
        }
        if "position.weight" in self._tensors:
            found["position.weight"] = self._read(self._tensors["position.weight"], source).float()
        norms = (name for name in self._tensors if name.startswith("embed.norm."))
        return found | {name: self._read(self._tensors[name], source).float() for name in norms}

    def sources(self, wanted: Iterable[TensorId]) -> list[str]:
        """Names of the checkpoint's tensors that these canonical tensors come from; unknown ones are ignored."""
        return sorted({p.source for t in wanted if t in self._canonical for p in self._canonical[t].pieces})

    def _layers(self) -> Iterator[list[Lazy]]:
        return (list(self._of(f"layers.{i}.").values()) for i in range(self.config.layers))

    def _of(self, prefix: str) -> dict[str, Lazy]:
        return {name.removeprefix(prefix): t for name, t in self._tensors.items() if name.startswith(prefix)}

    def _source(self, name: str, dtype: str) -> NDArray[Any]:
        return self._checkpoint.tensors[name].bits(dtype)

    def _read(self, lazy: Lazy, source: Callable[[str, str], NDArray[Any]]) -> Tensor:
        import torch

        kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        bits = read(lazy, lambda name: source(name, lazy.source_dtype))
        return torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(kinds[lazy.source_dtype])


class RankWeights:
    """Tensors of the file of rank `rank`, read on demand. `wide`: vectors and rows of the embedding in float32,
    else all as they are stored.
    """

    def __init__(self, path: Path, rank: int, config: ModelConfig, *, wide: bool = True) -> None:
        self._path, self._rank, self._config, self._wide = path, rank, config, wide

    def layer(self, layer: int) -> dict[str, Tensor]:
        """Tensors of one layer, by their names in it."""
        prefix = f"layers.{layer}."
        return {name.removeprefix(prefix): t for name, t in self._tensors(lambda n: n.startswith(prefix)).items()}

    def head(self) -> dict[str, Tensor]:
        """Weights of the head segment: this rank's part of the vocabulary."""
        found = self._tensors(lambda name: _of_head(name, tied=False))
        # A quantized head is stored even where the model's is tied.
        return found if "head.weight" in found else found | self._tensors(lambda name: name == "embed.weight")

    def embedding(self, used: NDArray[np.int64]) -> dict[str, Tensor]:
        """Rows `used` of the embedding, zeros for rows of other ranks; its norm and the learned positions if any."""
        import torch

        found = self._tensors(lambda name: name.startswith(("embed.", "position.")))
        table = found["embed.weight"]
        local = torch.from_numpy(used) - self._rank * table.shape[0]
        mine = (local >= 0) & (local < table.shape[0])
        rows = torch.zeros(len(used), table.shape[1], dtype=torch.float32 if self._wide else table.dtype)
        rows[mine] = table[local[mine]].to(rows.dtype)
        found = {name: tensor.float() if self._wide else tensor for name, tensor in found.items()}
        return found | {"embed.weight": rows}

    def _tensors(self, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
        from safetensors import safe_open

        with safe_open(self._path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in filter(wanted, file.keys())}
        return {name: _wide(tensor) for name, tensor in stored.items()} if self._wide else stored


def _stored(lazy: Lazy) -> int:
    return prod(lazy.shape) * ITEMSIZE[lazy.source_dtype]


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim > 1 else tensor.float()


def _of_head(name: str, *, tied: bool) -> bool:
    return name.startswith(("final.", "head.", "embed.weight") if tied else ("final.", "head."))
