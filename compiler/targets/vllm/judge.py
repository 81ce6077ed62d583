"""Forward pass over vLLM's shards without vLLM: the decoder, with each rank's file read under the decoder's names.

It splits what vLLM joins and undoes what vLLM interleaves, and reports tensors that no module reads. The names are
those of architectures.py, which `save_sharded_state` itself confirms (tests/targets/vllm).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.decoder.kernels import PLAIN, Kernels
from compiler.decoder.quantized import definition
from compiler.decoder.rankfile.layout import layouts as decoder_layouts
from compiler.decoder.weights import RankWeights
from compiler.errors import ArtifactError
from compiler.quantization.formats import products
from compiler.targets.vllm.architectures import ShardNames, row_for
from compiler.targets.vllm.compressed import INPUT_SCALE, PACKED_WEIGHT, SCALE, SHAPE
from compiler.targets.vllm.layout import constants, rank_file
from compiler.targets.vllm.version import parse_compared

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from compiler.model.config import ModelConfig

BUG = "build the shards again; if they are fresh, this is a bug of the target's layout"


class ShardWeights(RankWeights):
    """Tensors of the shard of rank `rank` under the decoder's names. Raises ArtifactError for an absent tensor."""

    def __init__(self, path: Path, rank: int, ranks: int, config: ModelConfig) -> None:
        super().__init__(path, rank, config)
        self._row, self._ranks = row_for(config, parse_compared()), ranks
        self._names = decoder_names(config, ranks, self._row)
        self._bits = packed_bits(path, config, self._row)

    def check(self) -> None:
        """Check that the file has no tensor without a place in the model, and attention's constants as they are."""
        from safetensors import safe_open

        with safe_open(self._path, framework="pt") as file:
            found = set(file.keys())
            scheme = "".join(name for name in found if name.endswith(f".{SCALE}"))
            layers = range(self._config.layers)
            fixed = {k: v for layer in layers for k, (_, v) in constants(self._row, layer, scheme).items()}
            wrong = [name for name in fixed.keys() & found if file.get_tensor(name).item() != fixed[name]]
        own = {name for _, name in self._names.values()}
        of_layers = {scale for name in own for scale in _companions("weight", name)}
        packed = {name.removesuffix(SHAPE) for name in found if name.endswith(f".{SHAPE}")}
        of_layers |= {
            f"{module}{part}" for module in packed if f"{module}weight" in own for part in (PACKED_WEIGHT, SHAPE)
        }
        extra = sorted({*(found - own - of_layers - fixed.keys()), *(fixed.keys() - found), *wrong})
        if extra:
            raise ArtifactError(
                f"expected the model's tensors and attention's constants in {self._path}; found "
                f"{', '.join(extra[:10])} ({len(extra)})",
                hint=BUG,
            )

    def _tensors(self, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
        from safetensors import safe_open

        with safe_open(self._path, framework="pt") as file:
            held = set(file.keys())
            found = {}
            for name in filter(wanted, self._names):
                role, stored = self._names[name]
                words = f"{stored.removesuffix('weight')}{PACKED_WEIGHT}"
                if stored not in held and words not in held:
                    raise ArtifactError(f"{self._path}: the model needs `{stored}`; the shard lacks it", hint=BUG)
                if role in self._row.gathered:
                    tensor = self._gathered(role, stored)
                elif stored in held:
                    tensor = self._apart(role, name.rpartition(".")[2], file.get_tensor(stored))
                else:
                    tensor = unpacked(file.get_tensor(words), self._bits)
                found[name] = tensor if tensor.ndim > 1 else tensor.float()
                for scale, places in _companions(name, stored).items():
                    if scale in held:
                        of_rows = file.get_tensor(scale).float()
                        found[places] = of_rows if self._bits == FOUR else of_rows.reshape(-1)
            return found

    def _gathered(self, role: str, stored: str) -> Tensor:
        """The decoder's matrix of this rank, from those of all ranks."""
        import torch
        from safetensors import safe_open

        parts = []
        for rank in range(self._ranks):
            with safe_open(self._path.with_name(rank_file(rank)), framework="pt") as file:
                parts.append(file.get_tensor(stored))
        config, ranks, rank = self._config, self._ranks, self._rank
        if role == "mlp.gate_up":
            return torch.cat([half.chunk(ranks)[rank] for half in torch.cat(parts).chunk(2)])
        width, kv = config.head_dim, config.kv_heads
        own = max(kv // ranks, 1) * width
        queries = [part[: -2 * own] for part in parts]
        keys = [part[-2 * own : -own] for part in parts[:: max(ranks // kv, 1)]]
        values = [part[-own:] for part in parts[:: max(ranks // kv, 1)]]
        heads = torch.cat([*queries, *keys, *values]).reshape(kv, config.heads // kv + 2, width, -1)
        q = heads[:, :-2].reshape(config.heads, width, -1).chunk(ranks)[rank]
        first = rank * kv // ranks
        k, v = (heads[first : first + own // width, place] for place in (-2, -1))
        return torch.cat([part.reshape(-1, heads.shape[-1]) for part in (q, k, v)])

    def _apart(self, role: str, part: str, tensor: Tensor) -> Tensor:
        """The decoder's tensor in a stored one."""
        import torch

        config, row = self._config, self._row
        if role in _LATENTS and config.q_rank:
            return tensor[: config.q_rank] if role == "attn.q_a" else tensor[config.q_rank :]
        if role in row.matrices:
            return tensor.reshape(-1)
        if role in row.whole and role.startswith("mlp."):
            axis = 0 if role == "mlp.up" else 1
            return tensor.chunk(self._ranks, axis)[self._rank] if axis < tensor.ndim else tensor
        if role in row.whole:
            count = config.heads if role == "attn.q_heads_norm" else config.kv_heads
            first, own = self._rank * count // self._ranks, max(count // self._ranks, 1)
            return tensor.reshape(count, -1)[first : first + own].reshape(-1)
        if role == "attn.qkv" and row.mixes(role, config):
            heads = tensor.reshape(-1, 3, config.head_dim, *tensor.shape[1:])
            return heads.transpose(0, 1).reshape(tensor.shape)
        if role == "attn.qkv" and row.turned and part == "weight":
            values = max(config.kv_heads // self._ranks, 1) * config.head_dim
            turned = tensor[:-values].reshape(-1, 2, config.head_dim // 2, tensor.shape[1])
            return torch.cat([turned.transpose(1, 2).reshape(-1, tensor.shape[1]), tensor[-values:]])
        if row.mixes(role, config):
            rows = tensor.reshape(tensor.shape[0], -1, 2, *tensor.shape[2:])
            return rows.transpose(1, 2).reshape(tensor.shape)
        return tensor


def _companions(name: str, stored: str) -> dict[str, str]:
    """Scales of a weight by their names in the shard: those of the decoder, whose name of the weight is `name`."""
    if not stored.endswith(".weight"):
        return {}
    module, own = stored.removesuffix("weight"), name.removesuffix("weight")
    return {f"{module}{SCALE}": f"{own}scale", f"{module}{INPUT_SCALE}": f"{own}input_scale"}


FOUR = 4
"""Bits of weights in groups."""


def packed_bits(path: Path, config: ModelConfig, row: ShardNames) -> int:
    """Bits of an integer in the words of a shard's weights; 0 where they are not packed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        name = next((name for name in sorted(file.keys()) if name.endswith(PACKED_WEIGHT)), None)
        stored = row.name("attn.qkv", PACKED_WEIGHT, 0, tied=False) if name else ""
        return 32 * int(file.get_slice(stored).get_shape()[1]) // config.hidden if name else 0


def unpacked(words: Tensor, bits: int) -> Tensor:
    """Weights of the decoder's rank file in int32 words [out, n]: int8 [out, 4 n], or uint8 [out, 4 n] of two each."""
    import torch

    found = words.view(torch.uint8)
    return found ^ 0x88 if bits == FOUR else (found ^ 0x80).view(torch.int8)


def kernels_of(path: Path, config: ModelConfig) -> Kernels:
    """Kernels for the weights of a shard, from their type and the presence of input scales."""
    from safetensors import safe_open

    if bits := packed_bits(path, config, row_for(config, parse_compared())):
        return replace(PLAIN, quantized=definition("grouped" if bits == FOUR else "weight_only"))
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        scaled = next((name for name in sorted(names) if name.endswith(f".{SCALE}")), None)
        if scaled is None:
            return PLAIN
        module = scaled.removesuffix(SCALE)
        dtype = str(file.get_tensor(f"{module}weight").dtype).removeprefix("torch.")
        activations = "tensor" if f"{module}{INPUT_SCALE}" in names else "token"
    for name, (form, product) in products().items():
        if form.torch_dtype == dtype and product.activations == activations:
            return replace(PLAIN, quantized=definition(name))
    raise ArtifactError(f"{path}: the judge computes 8-bit weights with 8-bit inputs; found {dtype}", hint=BUG)


_LATENTS = ("attn.q_a", "attn.kv_a")


def decoder_names(config: ModelConfig, ranks: int, row: ShardNames) -> dict[str, tuple[str, str]]:
    """Role of each tensor of the decoder's rank file, and its name in the shard."""
    found = {}
    for layout in decoder_layouts(config, ranks):
        tensor = layout.inputs[0]
        role = layout.name.removesuffix(f".{tensor.part}").removeprefix(f"layers.{tensor.layer}.")
        joined = "attn.qkv_a" if role in _LATENTS and config.q_rank else role
        found[layout.name] = role, row.name(joined, tensor.part, tensor.layer, tied=config.tied)
    return found
