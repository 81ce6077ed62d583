"""SantaCoder: GPT-2 with one key and one value for all heads. Linear layers lie [in, out]; the head is tied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import attention, gelu_tanh, layer_norm


def shapes(hf: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, dim = hf["n_embd"], hf["n_embd"] // hf["n_head"]
    ffn = hf.get("n_inner") or 4 * hidden
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (hf["vocab_size"], hidden),
        "transformer.wpe.weight": (hf["n_positions"], hidden),
        "transformer.ln_f.weight": (hidden,),
        "transformer.ln_f.bias": (hidden,),
    }
    for i in range(hf["n_layer"]):
        layer = f"transformer.h.{i}."
        for norm in ("ln_1", "ln_2"):
            found |= {f"{layer}{norm}.weight": (hidden,), f"{layer}{norm}.bias": (hidden,)}
        for stem, rows, columns in (
            ("attn.q_attn", hidden, hidden),
            ("attn.kv_attn", hidden, 2 * dim),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, ffn),
            ("mlp.c_proj", ffn, hidden),
        ):
            found |= {f"{layer}{stem}.weight": (rows, columns), f"{layer}{stem}.bias": (columns,)}
    return found


def forward(hf: Mapping[str, Any], tensors: Mapping[str, Tensor], token_ids: Tensor) -> Tensor:
    eps, heads = hf["layer_norm_epsilon"], hf["n_head"]

    def times(x: Tensor, stem: str) -> Tensor:
        return x @ tensors[f"{stem}.weight"] + tensors[f"{stem}.bias"]

    def norm(x: Tensor, stem: str) -> Tensor:
        return layer_norm(x, tensors[f"{stem}.weight"], tensors[f"{stem}.bias"], eps)

    table = tensors["transformer.wte.weight"]
    x = table[token_ids] + tensors["transformer.wpe.weight"][torch.arange(token_ids.shape[1])]
    for i in range(hf["n_layer"]):
        layer = f"transformer.h.{i}."
        y = norm(x, layer + "ln_1")
        q = times(y, layer + "attn.q_attn").unflatten(-1, (heads, -1))
        k, v = times(y, layer + "attn.kv_attn")[:, :, None].chunk(2, -1)
        x = x + times(attention(q, k, v), layer + "attn.c_proj")
        y = gelu_tanh(times(norm(x, layer + "ln_2"), layer + "mlp.c_fc"))
        x = x + times(y, layer + "mlp.c_proj")
    return norm(x, "transformer.ln_f") @ table.T
