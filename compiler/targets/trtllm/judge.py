"""Forward pass over rank files with TensorRT-LLM's tensor names and semantics: the logits that its engines would give.

It shares no code, layout, table or recipe with the writer of the files, so that a mistake there is not undone by its
own inverse. It reads config.json as written and the ranks' tensors by name, checks shapes as the loader does, and
reports tensors that no module reads.

Every rank has its own hidden states, which are combined only where the engine communicates:

    column-parallel    the rank's rows of qkv, fc, gate          no communication
    row-parallel       dense, proj: summed over the ranks, then each rank adds its own copy of the bias
    vocabulary         lm_head: the ranks' logits concatenated, cut to vocab_size

so that copies that differ between ranks are detected. Float32, numpy, one block of a matrix's rows in memory at a time,
which is read once for all tokens: states may have a leading axis of rows of equal length, [rows, S, hidden].

    gated mlp    proj(act(fc(x)) * gate(x))
    swiglu mlp   first, second = halves of fc(x);  proj(first * silu(second))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.errors import ArtifactError
from compiler.targets.trtllm.judge_math import (
    ACTIVATIONS,
    Array,
    alibi_slopes,
    attend,
    frequencies,
    layer_norm,
    rms_norm,
    rotate,
    silu,
    softmax,
)
from compiler.targets.trtllm.judge_model import BLOCK, BUG, JudgedModel, RankReader, Tensor, Tensors
from compiler.targets.trtllm.judge_quant import cached, experts, linear

_SCALES_EMBEDDING = ("GemmaForCausalLM",)
"""Model classes that multiply the embedding by sqrt(hidden)."""


States = list[Array]
"""Hidden states: float32 [S, hidden] or [rows, S, hidden] of every rank, or a single one where all are equal."""


class CheckpointJudge:
    """Judge of a checkpoint. `config`: its config.json; `ranks`: its files in order; `windows`: the runtime's
    max_attention_window of each layer (() = none); `block`: bytes of a matrix in memory at a time.

    Methods raise ArtifactError where a tensor is missing, or has another shape than its module.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        ranks: Sequence[Tensors],
        windows: Sequence[int | None] = (),
        block: int = BLOCK,
    ) -> None:
        quantization = config.get("quantization", {})
        algos = quantization.get("quant_algo") or "", quantization.get("kv_cache_quant_algo") or ""
        group = int(quantization.get("group_size") or 128)
        self._files = [RankReader(rank, tensors, block, *algos, group) for rank, tensors in enumerate(ranks)]
        self._model = JudgedModel(config, len(self._files))
        self._windows = windows

    def logits(self, token_ids: NDArray[np.int64]) -> Array:
        """Logits of every position: token_ids [S] -> float32 [S, vocab_size].

        Also raises ArtifactError for a tensor that no module reads.
        """
        x = self.embed(token_ids)
        for layer in range(self._model.layers):
            behind = _added(x, self.attn(layer, x))
            x = _added(behind, self.mlp(layer, x if self._one_norm(layer) else behind))
        out = self.head(x)
        extra = [f"{name} (rank {file.rank})" for file in self._files for name in sorted(set(file.tensors) - file.read)]
        if extra:
            raise ArtifactError(
                f"no module of the model reads {', '.join(extra[:10])}: {len(extra)} surplus tensors", hint=BUG
            )
        return out

    def embed(self, token_ids: NDArray[np.int64]) -> States:
        return _once(_embed(self._model, self._files[: self._model.tp], token_ids))

    def attn(self, layer: int, x: States) -> States:
        """Output of attention, which the layer adds to `x`."""
        (files, at), model = self._stage(layer), self._model
        window = self._windows[layer] if self._windows else None
        before = [
            _norm(model, file, at + "input_layernorm", own) for file, own in zip(files, self._all(x), strict=True)
        ]
        parts = [
            _attention(model, file, r, at, own, window) for r, (file, own) in enumerate(zip(files, before, strict=True))
        ]
        return self._summed(layer, parts, "attention.dense.bias")

    def mlp(self, layer: int, x: States) -> States:
        """Output of the mlp, which the layer adds. `x`: the layer's input if one norm serves attention and mlp."""
        (files, at), model = self._stage(layer), self._model
        norm = "input_layernorm" if self._one_norm(layer) else "post_layernorm"
        before = [_norm(model, file, at + norm, own) for file, own in zip(files, self._all(x), strict=True)]
        parts = [_mlp(model, file, r, at, own) for r, (file, own) in enumerate(zip(files, before, strict=True))]
        return self._summed(layer, parts, "mlp.proj.bias")

    def head(self, x: States) -> Array:
        """Logits of hidden states: float32 [..., vocab_size]."""
        return _head(self._model, self._files[-self._model.tp :], self._all(x))

    def _all(self, x: States) -> States:
        return x * self._model.tp if len(x) == 1 else x

    def _stage(self, layer: int) -> tuple[list[RankReader], str]:
        """Files of the ranks with the layer, and the prefix of its tensors' names."""
        stage, local = divmod(layer, self._model.layers // self._model.pp)
        return self._files[stage * self._model.tp :][: self._model.tp], f"transformer.layers.{local}."

    def _one_norm(self, layer: int) -> bool:
        files, at = self._stage(layer)
        return all(f"{at}post_layernorm.weight" not in file.tensors for file in files)

    def _summed(self, layer: int, parts: Sequence[Array], bias: str) -> States:
        files, at = self._stage(layer)
        own = [file.maybe(at + bias, self._model.hidden) for file in files]
        if self._one_norm(layer):
            # One all-reduce for both parts: each rank adds its bias before it.
            return [np.asarray(np.sum([_plus(part, b) for part, b in zip(parts, own, strict=True)], axis=0))]
        total = np.sum(parts, axis=0)
        return _once([_plus(total, b) for b in own])


def _once(states: States) -> States:
    return states[:1] if all(np.array_equal(states[0], other) for other in states[1:]) else states


def _added(x: States, y: States) -> States:
    count = max(len(x), len(y))
    return [a + b for a, b in zip(x * (count // len(x)), y * (count // len(y)), strict=True)]


def _norm(model: JudgedModel, file: RankReader, name: str, x: Array) -> Array:
    weight = file.vector(f"{name}.weight", model.hidden)
    bias = file.maybe(f"{name}.bias", model.hidden)
    eps = float(model.config["norm_epsilon"])
    return rms_norm(x, weight, eps) if bias is None else layer_norm(x, weight, bias, eps)


def _embed(model: JudgedModel, files: Sequence[RankReader], token_ids: NDArray[np.int64]) -> States:
    tables = [("transformer.vocab_embedding.weight", int(model.config["vocab_size"]), token_ids)]
    if model.config["position_embedding_type"] == "learned_absolute":
        positions = int(model.config["max_position_embeddings"])
        places = np.broadcast_to(np.arange(token_ids.shape[-1]), token_ids.shape)
        tables.append(("transformer.position_embedding.weight", positions, places))
    scale = model.hidden**0.5 if model.config["architecture"] in _SCALES_EMBEDDING else 1.0
    total = [np.zeros((*token_ids.shape, model.hidden), np.float32) for _ in files]
    for name, size, ids in tables:
        if model.config["use_parallel_embedding"]:
            rows = -(-size // model.tp)
            found = [_lookup(file.get(name, rows, model.hidden), ids - r * rows) for r, file in enumerate(files)]
            found = [np.sum(found, axis=0)] * len(files)
        else:
            found = [_lookup(file.get(name, size, model.hidden), ids) for file in files]
        total = [t + f for t, f in zip(total, found, strict=True)]
    return [np.asarray(t * np.float32(scale)) for t in total]


def _lookup(table: Tensor, ids: NDArray[np.int64]) -> Array:
    """Rows `ids` of a table; zeros for rows of other ranks."""
    used, places = np.unique(ids, return_inverse=True)
    out = np.zeros((len(used), table.shape[1]), np.float32)
    for i, row in enumerate(used.tolist()):
        if 0 <= row < table.shape[0]:
            out[i] = table[row : row + 1][0]
    return np.asarray(out[places.reshape(ids.shape)])


def _plus(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + bias


def _linear(file: RankReader, at: str, module: str, x: Array, rows: int) -> Array:
    """Linear module with its bias, if it has one: x [..., in] -> [..., rows]."""
    return _plus(linear(file, at, module, x, rows), file.maybe(f"{at}{module}.bias", rows))


def _attention(model: JudgedModel, file: RankReader, rank: int, at: str, x: Array, window: int | None) -> Array:
    """Partial sum of one rank's output projection, without its bias."""
    config, d = model.config, model.head_size
    h, k = model.heads, model.kv_heads
    qkv = _linear(file, at, "attention.qkv", x, (h + 2 * k) * d).reshape(*x.shape[:-1], h + 2 * k, d)
    query, key, value = qkv[..., :h, :], qkv[..., h : h + k, :], qkv[..., h + k :, :]
    if config.get("qk_layernorm"):
        eps = float(config["norm_epsilon"])
        query = rms_norm(query, file.vector(at + "attention.q_layernorm.weight", d), eps)
        key = rms_norm(key, file.vector(at + "attention.k_layernorm.weight", d), eps)
    slopes = np.zeros(h, np.float32)
    kind = config["position_embedding_type"]
    if kind == "alibi":
        slopes = alibi_slopes(int(config["num_attention_heads"]))[rank * h : (rank + 1) * h]
    elif kind in ("rope_gpt_neox", "rope_gptj"):
        inverse = frequencies(model.rotary_dim, float(config.get("rotary_base", 10000.0)), config.get("rotary_scaling"))
        query, key = (rotate(t, inverse, interleaved=kind == "rope_gptj") for t in (query, key))
    elif kind != "learned_absolute":
        raise ArtifactError(f"config.json: the judge does not compute position_embedding_type {kind!r}", hint=BUG)
    key, value = cached(file, at, key), cached(file, at, value)
    queries, keys, values = (t.reshape(-1, *t.shape[-3:]) for t in (query, key, value))
    rows = zip(queries, keys, values, strict=True)
    out = np.stack([attend(q_row, k_row, v_row, slopes, window) for q_row, k_row, v_row in rows])
    return linear(file, at, "attention.dense", out.reshape(*x.shape[:-1], h * d), model.hidden)


def _mlp(model: JudgedModel, file: RankReader, rank: int, at: str, x: Array) -> Array:
    """Partial sum of one rank's mlp, without the bias of proj."""
    if model.experts:
        return _experts(model, file, rank, at, x) + _shared_expert(model, file, at, x)
    act, width = str(model.config["hidden_act"]), model.ffn
    if act == "swiglu":
        inner = _swiglu(_linear(file, at, "mlp.fc", x, 2 * width))
    else:
        inner = _activation(act)(_linear(file, at, "mlp.fc", x, width))
        if at + "mlp.gate.weight" in file.tensors:
            inner = inner * _linear(file, at, "mlp.gate", x, width)
    return linear(file, at, "mlp.proj", inner, model.hidden)


def _activation(name: str) -> Callable[[Array], Array]:
    if name not in ACTIVATIONS:
        raise ArtifactError(f"config.json: hidden_act {name!r} is not one of {', '.join(ACTIVATIONS)}", hint=BUG)
    return ACTIVATIONS[name]


def _swiglu(x: Array) -> Array:
    first, second = np.split(x, 2, axis=-1)
    return first * silu(second)


def _experts(model: JudgedModel, file: RankReader, rank: int, at: str, states: Array) -> Array:
    config, x = model.config, states.reshape(-1, states.shape[-1])
    moe = config.get("moe") or {"top_k": config["moe_top_k"], "normalization_mode": config["moe_normalization_mode"]}
    moe_tp, moe_ep = model.moe_split
    width = int(config.get("moe_intermediate_size") or config["intermediate_size"]) // moe_tp
    local = model.experts // moe_ep
    old = at + "mlp.experts_weight_1" in file.tensors
    names = ("mlp.experts_weight_1", "mlp.experts_weight_2") if old else ("mlp.fc.weight", "mlp.proj.weight")
    router = file.get(at + "mlp.router.weight", model.experts, model.hidden)
    share = softmax(file.times(x, router))
    chosen = np.argsort(-share, axis=-1, kind="stable")[:, : int(moe["top_k"])]
    weight = np.take_along_axis(share, chosen, -1)
    if moe["normalization_mode"] == 1:
        weight = weight / weight.sum(-1, keepdims=True)
    fc = experts(file, at + names[0], local, 2 * width, model.hidden)
    proj = experts(file, at + names[1], local, model.hidden, width)
    first = rank % moe_ep * local
    out = np.zeros_like(x)
    for i in range(local):
        token, slot = np.nonzero(chosen == first + i)
        inner = _swiglu(fc(i, x[token]))
        out[token] += proj(i, inner) * weight[token, slot, None]
    return out.reshape(states.shape)


def _shared_expert(model: JudgedModel, file: RankReader, at: str, x: Array) -> Array:
    width = int(model.config.get("moe_shared_expert_intermediate_size") or 0) // model.tp
    if not width:
        return np.zeros_like(x)
    place = at + ("mlp." if at + "mlp.shared_expert.fc.weight" in file.tensors else "")
    inner = _swiglu(linear(file, place, "shared_expert.fc", x, 2 * width))
    out = linear(file, place, "shared_expert.proj", inner, model.hidden)
    gate = file.times(x, file.get(place + "shared_expert_gate.weight", 1, model.hidden))
    return np.asarray(out / (1 + np.exp(-gate)))


def _head(model: JudgedModel, files: Sequence[RankReader], x: list[Array]) -> Array:
    parts = []
    for file, own in zip(files, x, strict=True):
        normed = _norm(model, file, "transformer.ln_f", own)
        table = file.get("lm_head.weight", model.vocab_rows, model.hidden)
        parts.append(_plus(file.times(normed, table), file.maybe("lm_head.bias", model.vocab_rows)))
    return np.asarray(np.concatenate(parts, -1)[..., : int(model.config["vocab_size"])])
