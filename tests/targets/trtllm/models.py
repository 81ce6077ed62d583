"""Tiny models of transformers as ModelConfig and canonical tensors: written by hand from the architectures, no recipe.

`layer` and `model` of a case take what transformers calls its tensors to roles; the logits to compare with come from
the model itself. An architecture that transformers lacks borrows the class that does the same mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compiler.model.config import LayerKind, ModelConfig
from compiler.model.roles import TensorId, axis_sizes, model_tensors, shape_of
from compiler.model.rope import RopeScaling

TOKENS = np.array([3, 17, 0, 36, 8, 8, 21, 5, 30, 2, 11, 19])
HEADS, DIM, VOCAB, LAYERS, POSITIONS = 8, 8, 37, 2, 32
HIDDEN = HEADS * DIM
Roles = dict[str, Tensor]
"""`attn.q.weight` -> as transformers stores it: [out, in]; of one layer, or of the model."""


@dataclass(frozen=True)
class Case:
    config: ModelConfig
    hf: Mapping[str, Any]
    layer: Callable[[Roles, str], Roles]
    model: Mapping[str, str]
    prefix: str = "model.layers.{}."


def _config(architecture: str, **changes: Any) -> ModelConfig:
    kind = LayerKind(changes.pop("mlp", "gated"), changes.pop("window", None))
    plain = ModelConfig(
        architecture=architecture, layers=LAYERS, hidden=HIDDEN, heads=HEADS, kv_heads=2, head_dim=DIM, ffn=96,
        vocab=VOCAB, norm_eps=1e-5, max_positions=POSITIONS, dtype="float32", rotary_dim=DIM,
        layer_kinds=(kind,) * LAYERS,
    )  # fmt: skip
    return replace(plain, **changes)


def _hf(**changes: Any) -> dict[str, Any]:
    return {
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 2,
        "intermediate_size": 96, "vocab_size": VOCAB, "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "head_dim": DIM, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **changes,
    }  # fmt: skip


def _pick(**names: str) -> Callable[[Roles, str], Roles]:
    """Roles by their names in a layer; the dots of a role are written as underscores."""

    def layer(found: Roles, prefix: str) -> Roles:
        roles: Roles = {}
        for role, name in names.items():
            for part in ("weight", "bias"):
                if f"{prefix}{name}.{part}" in found:
                    roles[f"{role.replace('_', '.', 1)}.{part}"] = found[f"{prefix}{name}.{part}"]
        return roles

    return layer


def _split(role: str, name: str, rows: Callable[[Tensor], list[Tensor]], into: tuple[str, ...]) -> Any:
    """A fused tensor, cut by `rows`."""

    def layer(found: Roles, prefix: str) -> Roles:
        roles: Roles = {}
        for part in ("weight", "bias"):
            if f"{prefix}{name}.{part}" in found:
                pieces = rows(found[f"{prefix}{name}.{part}"])
                roles |= {f"{role}.{key}.{part}": piece for key, piece in zip(into, pieces, strict=True)}
        return roles

    return layer


def _all(*parts: Callable[[Roles, str], Roles]) -> Callable[[Roles, str], Roles]:
    return lambda found, prefix: {key: value for part in parts for key, value in part(found, prefix).items()}


def _transposed(part: Callable[[Roles, str], Roles]) -> Callable[[Roles, str], Roles]:
    """Conv1D stores [in, out]."""
    return lambda found, prefix: {k: v.T if v.dim() == 2 else v for k, v in part(found, prefix).items()}


def _experts(name: str) -> Callable[[Roles, str], Roles]:
    """transformers 5 keeps experts as gate_up_proj [E, 2F, H] (gate first) and down_proj [E, H, F]."""

    def layer(found: Roles, prefix: str) -> Roles:
        gate, up = found[f"{prefix}{name}.gate_up_proj"].chunk(2, dim=1)
        return {"moe.gate.weight": gate, "moe.up.weight": up, "moe.down.weight": found[f"{prefix}{name}.down_proj"]}

    return layer


def _rows(*sizes: int) -> Callable[[Tensor], list[Tensor]]:
    return lambda tensor: list(tensor.split(sizes))


_NORMS = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
_QKV = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
_ATTENTION = {**_QKV, "attn_o": "self_attn.o_proj"}
_GATED = {"mlp_gate": "mlp.gate_proj", "mlp_up": "mlp.up_proj", "mlp_down": "mlp.down_proj"}
_LLAMA = _pick(**_NORMS, **_ATTENTION, **_GATED)
_MODEL = {"embed": "model.embed_tokens", "final.norm": "model.norm", "head": "lm_head"}
_GPT = {
    "embed": "transformer.wte", "position": "transformer.wpe", "final.norm": "transformer.ln_f", "head": "lm_head",
}  # fmt: skip
_GPT_NORMS = _pick(attn_norm="ln_1", mlp_norm="ln_2")
_GPT_MATRICES = _pick(attn_o="attn.c_proj", mlp_up="mlp.c_fc", mlp_down="mlp.c_proj")
_LN: dict[str, Any] = {"norm": "layer", "activation": "gelu_tanh"}
_BIASES = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
_LEARNED: dict[str, Any] = {"position": "learned", "tied": True, "mlp": "plain", **_LN, **_BIASES}
_GPT_HF = {
    "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS, "vocab_size": VOCAB, "n_inner": 96,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}  # fmt: skip
_MOE = {"experts": 4, "experts_per_token": 2, "moe_ffn": 48}

CASES: dict[str, Case] = {
    "llama": Case(_config("LlamaForCausalLM"), _hf(model_type="llama"), _LLAMA, _MODEL),
    "llama-biases": Case(
        _config("LlamaForCausalLM", **_BIASES),
        _hf(model_type="llama", attention_bias=True, mlp_bias=True),
        _LLAMA,
        _MODEL,
    ),
    "llama-tied": Case(
        _config("LlamaForCausalLM", tied=True, kv_heads=8),
        _hf(model_type="llama", tie_word_embeddings=True, num_key_value_heads=8),
        _LLAMA,
        _MODEL,
    ),
    "llama-rope-linear": Case(
        _config("LlamaForCausalLM", rope_scaling=RopeScaling("linear", 2.0)),
        _hf(model_type="llama", rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}),
        _LLAMA,
        _MODEL,
    ),
    "llama-rope-llama3": Case(
        _config("LlamaForCausalLM", rope_scaling=RopeScaling("llama3", 4.0, 1.0, 4.0, 8)),
        _hf(model_type="llama", rope_parameters=_LLAMA3),
        _LLAMA,
        _MODEL,
    ),
    "mistral": Case(
        _config("MistralForCausalLM", window=4, head_dim=16, rotary_dim=16),
        _hf(model_type="mistral", sliding_window=4, head_dim=16),
        _LLAMA,
        _MODEL,
    ),
    "mixtral": Case(
        _config("MixtralForCausalLM", mlp="moe", **{**_MOE, "moe_ffn": 96}),
        _hf(model_type="mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
        _all(_pick(**_NORMS, **_ATTENTION, moe_router="mlp.gate"), _experts("mlp.experts")),
        _MODEL,
    ),
    "qwen2": Case(
        _config("Qwen2ForCausalLM", qkv_bias=True),
        _hf(model_type="qwen2", use_sliding_window=False),
        _LLAMA,
        _MODEL,
    ),
    "qwen2-moe": Case(
        _config("Qwen2MoeForCausalLM", mlp="moe", qkv_bias=True, shared_ffn=64, shared_expert_gate=True,
                renormalize_experts=False, **_MOE),
        _hf(model_type="qwen2_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48,
            shared_expert_intermediate_size=64, decoder_sparse_step=1, norm_topk_prob=False),
        _all(
            _pick(**_NORMS, **_ATTENTION, moe_router="mlp.gate", shared_router="mlp.shared_expert_gate",
                  shared_gate="mlp.shared_expert.gate_proj", shared_up="mlp.shared_expert.up_proj",
                  shared_down="mlp.shared_expert.down_proj"),
            _experts("mlp.experts"),
        ),
        _MODEL,
    ),
    "qwen3": Case(
        _config("Qwen3ForCausalLM", qk_norm=True),
        _hf(model_type="qwen3"),
        _all(_LLAMA, _pick(attn_q_norm="self_attn.q_norm", attn_k_norm="self_attn.k_norm")),
        _MODEL,
    ),
    "gpt2": Case(
        _config("GPT2LMHeadModel", kv_heads=HEADS, **_LEARNED),
        {**_GPT_HF, "model_type": "gpt2"},
        _all(
            _GPT_NORMS,
            _transposed(_GPT_MATRICES),
            lambda found, prefix: _split("attn", "attn.c_attn", _rows(HIDDEN, HIDDEN, HIDDEN), ("q", "k", "v"))(
                {k: v.T if v.dim() == 2 else v for k, v in found.items()}, prefix
            ),
        ),
        _GPT,
        "transformer.h.{}.",
    ),
    "starcoder": Case(
        _config("GPTBigCodeForCausalLM", kv_heads=1, **_LEARNED),
        {**_GPT_HF, "model_type": "gpt_bigcode", "multi_query": True},
        _all(_GPT_NORMS, _GPT_MATRICES, _split("attn", "attn.c_attn", _rows(HIDDEN, DIM, DIM), ("q", "k", "v"))),
        _GPT,
        "transformer.h.{}.",
    ),
    "starcoder2": Case(
        _config("Starcoder2ForCausalLM", mlp="plain", tied=True, **_LN, **_BIASES),
        {**_hf(model_type="starcoder2", use_bias=True, norm_epsilon=1e-5, tie_word_embeddings=True,
               hidden_act="gelu_pytorch_tanh", sliding_window=None)},
        _pick(**_NORMS, **_ATTENTION, mlp_up="mlp.c_fc", mlp_down="mlp.c_proj"),
        _MODEL,
    ),
    "gptj": Case(
        _config("GPTJForCausalLM", kv_heads=HEADS, mlp="plain", mlp_bias=True, head_bias=True, parallel_residual=True,
                rotary="interleaved", rotary_dim=4, ffn=4 * HIDDEN, **_LN),
        {**_GPT_HF, "model_type": "gptj", "n_inner": None, "rotary_dim": 4, "tie_word_embeddings": False},
        _pick(attn_norm="ln_1", attn_q="attn.q_proj", attn_k="attn.k_proj", attn_v="attn.v_proj",
              attn_o="attn.out_proj", mlp_up="mlp.fc_in", mlp_down="mlp.fc_out"),
        {key: value for key, value in _GPT.items() if key != "position"},
        "transformer.h.{}.",
    ),
    "phi3": Case(
        _config("Phi3ForCausalLM"),
        _hf(model_type="phi3", original_max_position_embeddings=POSITIONS),
        _all(
            _pick(**_NORMS, attn_o="self_attn.o_proj", mlp_down="mlp.down_proj"),
            _split("attn", "self_attn.qkv_proj", _rows(HIDDEN, 2 * DIM, 2 * DIM), ("q", "k", "v")),
            _split("mlp", "mlp.gate_up_proj", _rows(96, 96), ("gate", "up")),
        ),
        _MODEL,
    ),
    "gemma": Case(
        _config("GemmaForCausalLM", norm="rms_plus_one", activation="gelu_tanh", tied=True, kv_heads=1,
                embedding_scale=HIDDEN**0.5),
        _hf(model_type="gemma", tie_word_embeddings=True, num_key_value_heads=1,
            hidden_activation="gelu_pytorch_tanh"),
        _LLAMA,
        _MODEL,
    ),
}  # fmt: skip


def _same_as(case: str, architecture: str, **changes: Any) -> Case:
    """An architecture whose class is not in transformers, but whose mathematics is that of one that is."""
    return replace(CASES[case], config=replace(CASES[case].config, architecture=architecture, **changes))


# Positions by alibi: Llama whose rotation turns by nothing, and whose mask holds the slopes.
_ALIBI = Case(
    _config("BaichuanForCausalLM", position="alibi", rotary_dim=0, kv_heads=HEADS),
    _hf(model_type="llama", num_key_value_heads=HEADS,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 1e15}),
    _LLAMA,
    _MODEL,
)  # fmt: skip
# GLM-4 in transformers; ChatGLM 2 and 3 are the same mathematics under older names.
_GLM = Case(
    _config("ChatGLMModel", qkv_bias=True, rotary="interleaved", rotary_dim=DIM // 2),
    _hf(model_type="glm", attention_bias=True, partial_rotary_factor=0.5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
    _all(
        _pick(**_NORMS, **_ATTENTION, mlp_down="mlp.down_proj"),
        _split("mlp", "mlp.gate_up_proj", _rows(96, 96), ("gate", "up")),
    ),
    _MODEL,
)  # fmt: skip
CASES |= {
    "internlm": _same_as("llama-biases", "InternLMForCausalLM", mlp_bias=True),
    "internlm2": _same_as("llama", "InternLM2ForCausalLM"),
    "qwen1": _same_as("qwen2", "QWenLMHeadModel"),
    "santacoder": _same_as("starcoder", "GPT2LMHeadCustomModel"),
    "baichuan-v1-7b": _same_as("llama", "BaiChuanForCausalLM"),
    "baichuan-v1-13b": _ALIBI,
    "baichuan-v2-7b": _same_as("llama", "BaichuanForCausalLM", head="l2_rows"),
    "baichuan-v2-13b": replace(_ALIBI, config=replace(_ALIBI.config, head="l2_rows")),
    "chatglm": _GLM,
    "glm": replace(_GLM, config=replace(_GLM.config, architecture="GlmForCausalLM")),
}


def _mask(config: ModelConfig) -> Tensor | None:
    """Causal, with alibi's slope of each of the 8 heads: 1/2, 1/4 ... 1/256."""
    if config.position != "alibi":
        return None
    distance = torch.arange(len(TOKENS))[:, None] - torch.arange(len(TOKENS))[None, :]
    slopes = 2.0 ** -torch.arange(1, HEADS + 1)
    mask = -slopes[:, None, None] * distance
    return mask.masked_fill(distance < 0, float("-inf"))[None]


@cache
def tensors_of(name: str) -> tuple[dict[TensorId, NDArray[np.float32]], NDArray[np.float32]]:
    """Canonical tensors of a random model, and the logits that transformers gives for `TOKENS`, [S, vocab]."""
    from transformers import AutoConfig, AutoModelForCausalLM

    case = CASES[name]
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**case.hf), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    _spread(model)
    found = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        if case.config.head == "l2_rows":
            model.lm_head.weight.copy_(torch.nn.functional.normalize(model.lm_head.weight))
        logits = model(torch.from_numpy(TOKENS)[None], attention_mask=_mask(case.config)).logits[0].numpy()
    stored = {f"{role}.{part}": found[f"{stem}.{part}"] for role, stem in case.model.items()
              for part in ("weight", "bias") if f"{stem}.{part}" in found}  # fmt: skip
    stored |= {f"layers.{i}.{key}": value for i in range(LAYERS)
               for key, value in case.layer(found, case.prefix.format(i)).items()}  # fmt: skip
    sizes = axis_sizes(case.config)
    wanted = model_tensors(case.config)
    return {t: stored[str(t)].reshape(shape_of(t, sizes)).numpy().copy() for t in wanted}, logits


def _spread(model: torch.nn.Module) -> None:
    """Values that matter: no bias zero, no norm one, experts and heads unlike each other."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else noise * parameter.shape[-1] ** -0.5 * 1.5)
