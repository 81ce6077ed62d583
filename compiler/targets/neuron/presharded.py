"""Presharded weights of transformers-neuronx: our shards by its names, a file for each layer with all ranks.

    decoder_layer_{i}.safetensors    NAME*RANK, dense models with a gated mlp
        pre_attn_ln_weight, pre_mlp_ln_weight              [hidden], on every rank
        attn_q_weight, attn_k_weight, attn_v_weight        [hidden, columns of the rank]
        attn_out_weight                                    [hidden, columns of the rank]
        extra_parameter0, 2, 4                             gate and up [hidden, ffn / tp]; down [hidden, ffn / tp]
        extra_parameter1, 3, 5                             their scales; unquantized: empty, on rank 0 alone
    DecoderLMHead.safetensors
        ln_f_weight, lm_head_weight, pre_layer_parameter0  norm; head [hidden, vocab / tp]; embedding

Source: `save_presharded_weights` in `decoder.py` and `load_weights` of `llama/model.py` of transformers-neuronx at
1ade6d7 (December 2024), for its defaults: no fused or tiled weights. It was not compared with files of the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compiler.errors import RefusedError
from compiler.model.lazy import Lazy, RankPlan, permute, whole

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig

HEAD = "DecoderLMHead.safetensors"
_OF_LAYER = {
    "attn.norm": ("pre_attn_ln_weight", False),
    "attn.q": ("attn_q_weight", True),
    "attn.k": ("attn_k_weight", True),
    "attn.v": ("attn_v_weight", True),
    "attn.o": ("attn_out_weight", False),
    "mlp.norm": ("pre_mlp_ln_weight", False),
    "mlp.gate": ("extra_parameter0", True),
    "mlp.up": ("extra_parameter2", True),
    "mlp.down": ("extra_parameter4", False),
}
"""Attribute of a layer, and whether it is stored transposed, by role."""
_OF_MODEL = {
    "final.norm": ("ln_f_weight", False),
    "head": ("lm_head_weight", True),
    "embed": ("pre_layer_parameter0", False),
}
_SCALES = ("extra_parameter1", "extra_parameter3", "extra_parameter5")


def presharded(config: ModelConfig, shards: Sequence[RankPlan]) -> list[RankPlan]:
    """Files of a model from its unquantized `shards`. Raises RefusedError for models with other tensors."""
    check_presharded(config)
    files: dict[str, list[tuple[str, Lazy]]] = {}
    for rank, shard in enumerate(shards):
        for name, tensor in shard.tensors:
            file, attribute, turned = _place(name)
            files.setdefault(file, []).append((f"{attribute}*{rank}", permute(tensor, (1, 0)) if turned else tensor))
    for layer in range(config.layers):
        files[f"decoder_layer_{layer}.safetensors"] += [(f"{name}*0", Lazy((0,), "F32", "F32", ())) for name in _SCALES]
    return [RankPlan(file, tuple(tensors)) for file, tensors in files.items()]


def sharded_again(config: ModelConfig, files: Sequence[RankPlan], tp: int) -> list[RankPlan]:
    """Shards of every rank, read from presharded files: tensors of `FILE:NAME`."""
    check_presharded(config)
    places = {(file.file, name): tensor for file in files for name, tensor in file.tensors}
    layers = [f"layers.{layer}.{role}.weight" for layer in range(config.layers) for role in _OF_LAYER]
    found = []
    for rank in range(tp):
        tensors = []
        for name in ("embed.weight", *layers, "final.norm.weight", "head.weight"):
            file, attribute, turned = _place(name)
            stored = places[file, f"{attribute}*{rank}"]
            read = whole(f"{file}:{attribute}*{rank}", stored.shape, stored.dtype)
            tensors.append((name, permute(read, (1, 0)) if turned else read))
        found.append(RankPlan(f"rank{rank}", tuple(tensors)))
    return found


def _place(name: str) -> tuple[str, str, bool]:
    """File, attribute, and whether it is transposed, of a tensor of our shards."""
    parts = name.split(".")
    if parts[0] == "layers":
        return f"decoder_layer_{parts[1]}.safetensors", *_OF_LAYER[".".join(parts[2:-1])]
    return HEAD, *_OF_MODEL[".".join(parts[:-1])]


def check_presharded(config: ModelConfig, weights: str = "", driver: str = "tnx") -> None:
    """Check that the layout is written for a model, a format of its weights, and the library of a driver.

    Raises RefusedError.
    """
    if weights or driver != "tnx":
        raise RefusedError(
            f"presharded weights are those of driver `tnx`, unquantized; found driver `{driver}`"
            + (f", {weights} weights" if weights else ""),
            hint="`--neuron-driver tnx` without `--quant`, or leave `--presharded` out",
        )
    plain = {kind.mlp for kind in config.layer_kinds} == {"gated"}
    biases = config.qkv_bias or config.out_bias or config.mlp_bias or config.head_bias
    if not plain or biases or config.norm != "rms" or config.qk_norm or config.position != "rope":
        raise RefusedError(
            f"the presharded layout is written for Llama and Mistral alone; found {config.architecture}",
            hint="driver `tnx` makes the files with the library itself",
        )
