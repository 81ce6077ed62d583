"""Forward pass over the shards without NeuronCores: the whole model, put together again from all ranks' files.

The files beside the shards say which head is in which slot (shards.json); no other code of the target is used. Empty
slots must be zero, copies of a head equal, and what is added once zero on all ranks but the first: anything else is
reported. Weights in int8 are multiplied by their scales.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compiler.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.model.config import ModelConfig

SHARDS = "shards.json"
"""File beside the shards: strategy, slots and padding."""
BUG = "build the shards again; if they are fresh, this is a bug of the target's layout"
_JOINED = {
    "attn.qkv": ("attn.q", "attn.k", "attn.v"),
    "mlp.gate_up": ("mlp.gate", "mlp.up"),
    "moe.gate_up": ("moe.gate", "moe.up"),
}
"""Tensors that the decoder joins along their rows."""


class GatheredShards:
    """Weights of the whole model from the shards of all ranks (`decoder.judge.DecoderWeights`)."""

    def __init__(self, files: Sequence[Path], config: ModelConfig, facts: Mapping[str, Any]) -> None:
        self._files, self._config, self._facts = files, config, facts

    def embedding(self, used: NDArray[np.int64]) -> dict[str, Tensor]:
        """Rows `used` of the embedding, and the learned positions."""
        found = {"embed.weight": self._columns("embed.weight")[used].float()}
        if self._config.position == "learned":
            found["position.weight"] = self._columns("position.weight").float()
        return found

    def layer(self, layer: int) -> dict[str, Tensor]:
        """Tensors of one layer, by the decoder's names."""
        import torch

        prefix = f"layers.{layer}."
        names = [name.removeprefix(prefix) for name in self._names() if name.startswith(prefix)]
        own = {name: self._whole(prefix, name) for name in names if not name.endswith(".scale")}
        found = dict(own)
        for joined, roles in _JOINED.items():
            for part in ("weight", "bias"):
                parts = [f"{role}.{part}" for role in roles]
                if all(part in own for part in parts):
                    axis = 1 if joined.startswith("moe.") else 0
                    found[f"{joined}.{part}"] = torch.cat([found.pop(part) for part in parts], axis)
        return {name: tensor if tensor.ndim > 1 else tensor.float() for name, tensor in found.items()}

    def head(self) -> dict[str, Tensor]:
        """Final norm and head; a tied head under the embedding's name."""
        vocab, name = self._config.vocab, "embed.weight" if self._config.tied else "head.weight"
        found = {name: self._rows("head.weight", vocab)}
        if self._config.head_bias:
            found["head.bias"] = self._rows("head.bias", vocab).float()
        norms = [name for name in self._names() if name.startswith("final.")]
        return found | {name: self._equal(name).float() for name in norms}

    def check(self) -> None:
        """Raise ArtifactError if ranks hold different tensors, or one that no part of the model reads."""
        names = [set(self._keys(rank)) for rank in range(len(self._files))]
        if odd := sorted(names[0].union(*names[1:]) - names[0].intersection(*names[1:])):
            raise ArtifactError(f"expected the same tensors on all ranks; found `{odd[0]}` on some", hint=BUG)
        known = {f"layers.{layer}." for layer in range(self._config.layers)}
        outside = {
            "embed.weight",
            "position.weight",
            "final.norm.weight",
            "final.norm.bias",
            "head.weight",
            "head.bias",
        }
        extra = [name for name in names[0] if name not in outside and not name.startswith(tuple(known))]
        if extra:
            raise ArtifactError(f"expected the model's tensors; found `{min(extra)}` besides", hint=BUG)

    def _whole(self, prefix: str, name: str) -> Tensor:
        """Tensor `name` of a layer, of the whole model."""
        role, _, part = name.rpartition(".")
        full = f"{prefix}{name}"
        tensor = self._by_role(role, part, full)
        scale = f"{full.removesuffix('weight')}scale"
        if part == "weight" and scale in self._names():
            return tensor.float() * self._by_role(role, "scale", scale)[..., None]
        return tensor

    def _by_role(self, role: str, part: str, name: str) -> Tensor:
        config = self._config
        heads: Mapping[str, Callable[[str], Tensor]] = {"attn.q": self._queries, "attn.k": self._keys_of}
        if role in ("attn.q", "attn.k", "attn.v"):
            return heads.get(role, self._keys_of)(name)
        if role in ("mlp.gate", "mlp.up"):
            return self._rows(name, config.ffn)
        if role in ("moe.gate", "moe.up", "moe.down"):
            return self._experts(name, {("moe.down", "weight"): 2, ("moe.down", "scale"): None}.get((role, part), 1))
        if part == "weight" and role == "attn.o":
            return self._queries(name, 1)
        if part == "weight" and role == "mlp.down":
            return self._cut(name, self._columns(name, whole=True), config.ffn, 1)
        if part == "bias" and role in ("attn.o", "mlp.down"):
            return self._first(name)
        return self._equal(name)

    def _queries(self, name: str, axis: int = 0) -> Tensor:
        """Query heads along `axis`, from their slots."""
        return self._slots(name, axis, self._facts["queries"], self._config.heads)

    def _keys_of(self, name: str) -> Tensor:
        """Kv heads along the rows, from their slots, or from columns that ranks hold without regard to heads."""
        count = self._config.kv_heads
        return self._slots(name, 0, list(range(count)) if self._facts["split_columns"] else self._facts["keys"], count)

    def _slots(self, name: str, axis: int, slots: Sequence[int | None], count: int) -> Tensor:
        import torch

        joined = torch.cat(self._shards(name), axis).transpose(0, axis)
        width = joined.shape[0] // len(slots)
        by_slot = joined.unflatten(0, (len(slots), width))
        places: dict[int, int] = {}
        for slot, head in enumerate(slots):
            if head is None:
                self._zero(name, by_slot[slot], f"empty slot {slot}")
            elif not torch.equal(by_slot[slot], by_slot[places.setdefault(head, slot)]):
                raise ArtifactError(f"`{name}`: copies of head {head} differ", hint=BUG)
        found: Tensor = by_slot[[places[head] for head in range(count)]].flatten(0, 1).transpose(0, axis)
        return found

    def _experts(self, name: str, width_axis: int | None) -> Tensor:
        """Matrices [experts, ...] of all ranks; ranks of a group hold parts along `width_axis`, or copies (None)."""
        import torch

        shards = self._shards(name)
        parts = max(len(shards) * shards[0].shape[0] // self._config.experts, 1)
        groups = [shards[first : first + parts] for first in range(0, len(shards), parts)]
        if width_axis is None:
            return torch.cat([self._same(name, group) for group in groups])
        cut = [self._cut(name, torch.cat(group, width_axis), self._config.moe_ffn, width_axis) for group in groups]
        return torch.cat(cut)

    def _rows(self, name: str, size: int) -> Tensor:
        import torch

        return self._cut(name, torch.cat(self._shards(name)), size, 0)

    def _columns(self, name: str, *, whole: bool = False) -> Tensor:
        import torch

        joined = torch.cat(self._shards(name), 1)
        return joined if whole else self._cut(name, joined, self._config.hidden, 1)

    def _cut(self, name: str, tensor: Tensor, size: int, axis: int) -> Tensor:
        """The first `size` elements of an axis; the others are padding."""
        self._zero(name, tensor.narrow(axis, size, tensor.shape[axis] - size), "padding")
        return tensor.narrow(axis, 0, size)

    def _first(self, name: str) -> Tensor:
        first, *others = self._shards(name)
        for rank, other in enumerate(others, 1):
            self._zero(name, other, f"rank {rank}")
        return first

    def _equal(self, name: str) -> Tensor:
        return self._same(name, self._shards(name))

    def _same(self, name: str, shards: Sequence[Tensor]) -> Tensor:
        import torch

        for other in shards[1:]:
            if not torch.equal(shards[0], other):
                raise ArtifactError(f"`{name}`: expected the same on all of its ranks; they differ", hint=BUG)
        return shards[0]

    def _zero(self, name: str, tensor: Tensor, place: str) -> None:
        if tensor.count_nonzero():
            raise ArtifactError(f"`{name}`: {place} is expected to be zero; found other values", hint=BUG)

    def _shards(self, name: str) -> list[Tensor]:
        """Tensor of every rank. Raises ArtifactError if one is absent."""
        from safetensors import safe_open

        found = []
        for rank, path in enumerate(self._files):
            with safe_open(path, framework="pt") as file:
                if name not in file.keys():  # noqa: SIM118 - not a mapping
                    raise ArtifactError(f"{path}: the model needs `{name}`; rank {rank} lacks it", hint=BUG)
                found.append(file.get_tensor(name))
        return found

    def _names(self) -> list[str]:
        return self._keys(0)

    def _keys(self, rank: int) -> list[str]:
        from safetensors import safe_open

        with safe_open(self._files[rank], framework="pt") as file:
            return list(file.keys())


def gathered(folder: Path, config: ModelConfig) -> GatheredShards:
    """Weights from the shards in `folder`. Raises ArtifactError without shards.json."""
    try:
        facts = json.loads((folder / SHARDS).read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{folder / SHARDS} is missing", hint=BUG) from None
    files = [folder / name for name in facts["files"]]
    return GatheredShards(files, config, facts)
