"""The weights of a checkpoint by the names that the decoder reads them by, those of the rank file at tp 1."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import RefusedError
from compiler.ir.lazy import ITEMSIZE, read, take
from compiler.store.cast import CASTABLE
from compiler.targets.inductor.layout import rank_plans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.ir.config import ModelConfig
    from compiler.ir.lazy import Lazy
    from compiler.ir.roles import TensorId
    from compiler.store.checkpoint import Checkpoint


class StoredModel:
    """The weights of a checkpoint as the decoder names them, read when they are asked for."""

    def __init__(self, config: ModelConfig, tensors: Mapping[TensorId, Lazy], checkpoint: Checkpoint) -> None:
        self.config, self._canonical, self._checkpoint = config, tensors, checkpoint
        (plan,) = rank_plans(config, 1, tensors, "F32")
        self._tensors = dict(plan.tensors)
        wrong = {t.source_dtype for t in tensors.values()} - set(CASTABLE)
        if wrong:
            raise RefusedError(
                f"weights in {', '.join(sorted(wrong))} cannot be calibrated with",
                hint=f"calibrate with a checkpoint in {', '.join(CASTABLE)}",
            )

    @property
    def largest_layer(self) -> int:
        """Bytes of the weights of the largest layer, as they are stored."""
        return max(
            sum(prod(t.shape) * ITEMSIZE[t.source_dtype] for t in self._of(f"layers.{i}.").values())
            for i in range(self.config.layers)
        )

    def layer(self, layer: int) -> dict[str, Tensor]:
        """Matrices in the dtype that they are stored in, everything else in float32."""
        return {
            name: tensor if tensor.ndim > 1 else tensor.float()
            for name, lazy in self._of(f"layers.{layer}.").items()
            for tensor in (self._read(lazy, self._source),)
        }

    def embedding(self, used: NDArray[np.int64]) -> dict[str, Tensor]:
        """The rows `used` of the embedding, in this order, and the positions where there are any; float32."""
        import torch

        table, source = self._tensors["embed.weight"], cache(self._source)
        found = {
            "embed.weight": torch.cat([self._read(take(table, 0, i, i + 1), source) for i in used.tolist()]).float()
        }
        if "position.weight" in self._tensors:
            found["position.weight"] = self._read(self._tensors["position.weight"], source).float()
        return found

    def sources(self, wanted: Iterable[TensorId]) -> list[str]:
        """The tensors of the checkpoint that canonical ones come from; those that a model has not count as none."""
        return sorted({p.source for t in wanted if t in self._canonical for p in self._canonical[t].pieces})

    def _of(self, prefix: str) -> dict[str, Lazy]:
        return {name.removeprefix(prefix): t for name, t in self._tensors.items() if name.startswith(prefix)}

    def _source(self, name: str) -> NDArray[Any]:
        found = self._checkpoint.tensors[name]
        assert found.file is not None
        return np.memmap(found.file, f"u{ITEMSIZE[found.dtype]}", "r", found.offset, (prod(found.shape),))

    def _read(self, lazy: Lazy, source: Callable[[str], NDArray[Any]]) -> Tensor:
        import torch

        kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        bits = read(lazy, source)
        return torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(kinds[lazy.source_dtype])
