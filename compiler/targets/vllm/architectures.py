"""Table of the architectures whose shards are written; only dropped.py, too, names architectures.

names.py has the names that several classes share. Source: files that vLLM 0.32.0 wrote (golden.json of the tests).
Dense classes of vLLM's own have had these names since its first images; experts, latent attention and classes of
transformers are named by version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from compiler.errors import RefusedError
from compiler.targets.vllm.dropped import check_served, has
from compiler.targets.vllm.images import Version
from compiler.targets.vllm.names import (
    EXPERTS,
    FOUR_NORMS,
    GPT,
    GPT2,
    INTERNLM2,
    LATENT,
    LLAMA,
    ROUTER_INSIDE,
    WITHOUT_HEAD,
    Names,
)
from compiler.targets.vllm.version import COMPARED, FIRST, parse_compared, show

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig


@dataclass(frozen=True)
class ShardNames:
    """Names of an architecture's tensors in vLLM. `names`: by file role (layout.py); `layer`: prefix of a layer.

    `attention`: module of the layer's attention, which has its scales. `when`: names that replace others if a field of
    ModelConfig is set. `mixed`: file roles whose inputs alternate, row by row or head by head, instead of following
    one another. `matrices`: roles whose heads stay an axis; `whole`: roles that every rank holds whole. `first`:
    version of vLLM from which the names hold. `lacks`: fields of ModelConfig that the class does not read.
    `turned`: rows of a head of q and k are ordered for the rotation of halves; the checkpoint has pairs.
    `gathered`: file roles whose ranks have parts of the fused matrix, not of its axes (gathered.py).
    `one_kv_head`: only such models are split. `heads_fill_hidden`: the class has no head size of its own.
    """

    names: Names
    layer: str = "model.layers.{layer}."
    attention: str = "self_attn.attn."
    when: Mapping[str, Names] = field(default_factory=dict)
    mixed: frozenset[str] = frozenset()
    matrices: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    first: Version = FIRST
    lacks: tuple[str, ...] = ()
    turned: bool = False
    gathered: frozenset[str] = frozenset()
    heads_fill_hidden: bool = False
    one_kv_head: bool = False

    def name(self, role: str, part: str, layer: int | None, *, tied: bool) -> str:
        """Name of a file tensor. The tied matrix has the smaller of its two names."""
        if tied and part == "weight" and role in ("embed", "head") and self.has("head"):
            return min(self._name("embed", part), self._name("head", part))
        return (self.layer.format(layer=layer) if layer is not None else "") + self._name(role, part)

    def scales(self, layer: int) -> str:
        """Beginning of the names of a layer's scales of attention."""
        return self.layer.format(layer=layer) + self.attention

    def has(self, role: str) -> bool:
        """Whether the class has a tensor of this role."""
        return role in self.names

    def mixes(self, role: str, config: ModelConfig) -> bool:
        """Whether the inputs of a file role alternate; those of attention only where each head has its own key."""
        return role in self.mixed and (role != "attn.qkv" or config.heads == config.kv_heads)

    def _name(self, role: str, part: str) -> str:
        name = self.names[role]
        return name + part if name[-1] in "._" else name


_NOW = parse_compared()
_LLAMA = ShardNames(LLAMA)
_LATENT_ROW = ShardNames(
    {**LLAMA, **EXPERTS, **ROUTER_INSIDE, **LATENT},
    attention="self_attn.mla_attn.mla_attn.",
    first=_NOW,
    lacks=("qkv_bias",),
)

ROWS: Mapping[str, ShardNames] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": replace(_LLAMA, lacks=("out_bias",)),
    "GraniteForCausalLM": _LLAMA,
    "GemmaForCausalLM": _LLAMA,
    "Phi3ForCausalLM": _LLAMA,
    "StableLmForCausalLM": replace(_LLAMA, lacks=("qk_norm", "parallel_residual")),
    "InternLMForCausalLM": _LLAMA,
    "Gemma2ForCausalLM": ShardNames({**WITHOUT_HEAD, **FOUR_NORMS}),
    "Gemma3ForCausalLM": ShardNames({**LLAMA, **FOUR_NORMS}),
    "CohereForCausalLM": ShardNames(
        {**WITHOUT_HEAD, "attn.q_heads_norm": "self_attn.q_norm.", "attn.k_heads_norm": "self_attn.k_norm."},
        matrices=frozenset(("attn.q_heads_norm", "attn.k_heads_norm")),
        lacks=("qkv_bias", "out_bias"),
    ),
    "Cohere2ForCausalLM": ShardNames(WITHOUT_HEAD, lacks=("qkv_bias", "out_bias")),
    "MixtralForCausalLM": ShardNames(
        {
            **LLAMA,
            "moe.router": "block_sparse_moe.gate.",
            "moe.gate_up": "block_sparse_moe.experts.routed_experts.w13_",
            "moe.down": "block_sparse_moe.experts.routed_experts.w2_",
        },
        first=_NOW,
    ),
    "Qwen2MoeForCausalLM": ShardNames({**LLAMA, **EXPERTS}, first=_NOW),
    "Qwen3MoeForCausalLM": ShardNames({**LLAMA, **EXPERTS, **ROUTER_INSIDE}, first=_NOW),
    "Llama4ForCausalLM": ShardNames(
        {
            **LLAMA,
            "mlp.gate_up": "feed_forward.gate_up_proj.",
            "mlp.down": "feed_forward.down_proj.",
            **{role: name.replace("mlp.", "feed_forward.") for role, name in EXPERTS.items()},
            "moe.router": "feed_forward.router.",
        },
        first=_NOW,
        lacks=("qkv_bias", "out_bias"),
        turned=True,
    ),
    "DeepseekV2ForCausalLM": _LATENT_ROW,
    "DeepseekV3ForCausalLM": _LATENT_ROW,
    "BaichuanForCausalLM": ShardNames({**LLAMA, "attn.qkv": "self_attn.W_pack."}),
    "BaiChuanForCausalLM": ShardNames({**LLAMA, "attn.qkv": "self_attn.W_pack."}),
    "BloomForCausalLM": ShardNames(
        {**GPT, "embed.norm": "transformer.word_embeddings_layernorm."},
        "transformer.h.{layer}.",
        "self_attention.attn.",
    ),
    "FalconForCausalLM": ShardNames(
        GPT,
        "transformer.h.{layer}.",
        "self_attention.attn.",
        when={"parallel_mlp_norm": {"attn.norm": "ln_attn.", "mlp.norm": "ln_mlp."}},
    ),
    "ChatGLMModel": ShardNames(
        {
            **GPT,
            "embed": "transformer.embedding.",
            "mlp.gate_up": "mlp.dense_h_to_4h.",
            "final.norm": "transformer.encoder.final_layernorm.",
        },
        "transformer.encoder.layers.{layer}.",
        "self_attention.attn.",
        heads_fill_hidden=True,
    ),
    "GPT2LMHeadModel": ShardNames(GPT2, "transformer.h.{layer}.", "attn.attn."),
    "GPTJForCausalLM": ShardNames(
        {**GPT2, "attn.qkv": "attn.qkv_proj.", "attn.o": "attn.out_proj.", "mlp.up": "mlp.fc_in.",
         "mlp.down": "mlp.fc_out."},
        "transformer.h.{layer}.",
        "attn.attn.",
    ),
    "OPTForCausalLM": ShardNames(
        {
            "embed": "model.decoder.embed_tokens.",
            "position": "model.decoder.embed_positions.",
            "attn.norm": "self_attn_layer_norm.",
            "attn.qkv": "self_attn.qkv_proj.",
            "attn.o": "self_attn.out_proj.",
            "mlp.norm": "final_layer_norm.",
            "mlp.up": "fc1.",
            "mlp.down": "fc2.",
            "final.norm": "model.decoder.final_layer_norm.",
            "head": "lm_head.",
        },
        "model.decoder.layers.{layer}.",
    ),
    "GptOssForCausalLM": ShardNames(
        {
            **LLAMA,
            "embed": "model.embedding.",
            "attn.qkv": "attn.qkv_proj.",
            "attn.o": "attn.o_proj.",
            "attn.sinks": "attn.sinks",
            "moe.router": "mlp.router.",
            "moe.gate_up": "mlp.experts.routed_experts.w13_",
            "moe.down": "mlp.experts.routed_experts.w2_",
        },
        attention="attn.attn.",
        mixed=frozenset(("moe.gate_up",)),
        first=_NOW,
    ),
    "InternLM2ForCausalLM": ShardNames(
        INTERNLM2, attention="attention.attn.", first=_NOW, lacks=("qkv_bias", "out_bias"),
        gathered=frozenset(("attn.qkv",)),
    ),
    # Classes of transformers, which vLLM fuses; it had its own for some of them before. It splits no mlp of GPTBigCode,
    # and its fused matrix only where there is one kv head.
    "GPTBigCodeForCausalLM": ShardNames(
        {**GPT2, "embed": "model.wte.", "position": "model.wpe.", "final.norm": "model.ln_f."},
        "model.h.{layer}.",
        "attn.attn.",
        whole=frozenset(("mlp.up", "mlp.down")),
        first=_NOW,
        one_kv_head=True,
    ),
    "GlmForCausalLM": replace(_LLAMA, first=_NOW, gathered=frozenset(("mlp.gate_up",))),
    "SmolLM3ForCausalLM": replace(_LLAMA, first=_NOW),
    "Olmo2ForCausalLM": ShardNames(
        {
            **LLAMA,
            "attn.q_heads_norm": "self_attn.q_norm.",
            "attn.k_heads_norm": "self_attn.k_norm.",
            "attn.post_norm": "post_attention_layernorm.",
            "mlp.post_norm": "post_feedforward_layernorm.",
        },
        whole=frozenset(("attn.q_heads_norm", "attn.k_heads_norm")),
        first=_NOW,
    ),
    "PhiForCausalLM": ShardNames(
        {**LLAMA, "attn.o": "self_attn.dense.", "mlp.up": "mlp.fc1.", "mlp.down": "mlp.fc2.",
         "final.norm": "model.final_layernorm."},
        first=_NOW,
    ),
    "Starcoder2ForCausalLM": ShardNames(
        {**LLAMA, "mlp.up": "mlp.c_fc.", "mlp.down": "mlp.c_proj."}, first=_NOW
    ),
    "GPTNeoXForCausalLM": ShardNames(
        {
            **GPT,
            "embed": "model.embed_in.",
            "attn.qkv": "attention.query_key_value.",
            "attn.o": "attention.dense.",
            "final.norm": "model.final_layer_norm.",
        },
        attention="attention.attn.",
        mixed=frozenset(("attn.qkv",)),
        first=_NOW,
    ),
}  # fmt: skip
"""By architecture, as config.json names it."""
COMPARED_ROWS = tuple(name for name, row in ROWS.items() if row.first <= _NOW and has(name, _NOW))
"""Architectures whose shards were compared with those of vLLM `COMPARED`."""
_ALIASES = {"ChatGLMForConditionalGeneration": "ChatGLMModel", "BloomModel": "BloomForCausalLM"}


def row_for(config: ModelConfig, version: Version) -> ShardNames:
    """Row of the architecture, with the names that the model's fields select.

    Raises RefusedError without one, and for a version of vLLM or a model that it does not hold for.
    """
    architecture = _ALIASES.get(config.architecture, config.architecture)
    check_served(config.architecture, version)
    row = ROWS.get(architecture)
    if row is None:
        raise _refused(config, "this target has no row for it", _AS_IT_IS)
    if version < row.first:
        raise _refused(
            config, f"its shards are known for vLLM from {show(row.first)} on; found {show(version)}", _AS_IT_IS
        )
    if found := [name for name in row.lacks if getattr(config, name)]:
        raise _refused(config, f"vLLM's class has no {', '.join(found)}; the model has", _OTHERWISE)
    if row.heads_fill_hidden and config.heads * config.head_dim != config.hidden:
        width = f"{config.heads} heads of {config.head_dim} for a hidden size of {config.hidden}"
        raise _refused(config, f"vLLM's class divides the hidden size by the heads; found {width}", _OTHERWISE)
    if row.one_kv_head and config.kv_heads != 1:
        raise _refused(config, f"vLLM splits it with one kv head only; found {config.kv_heads}", _AS_IT_IS)
    for name, names in row.when.items():
        if getattr(config, name):
            row = replace(row, names={**row.names, **names})
    return row


def compared(config: ModelConfig, version: Version) -> str:
    """Version of vLLM whose own shards had the same bits; "" if those of `version` were not compared."""
    known = _ALIASES.get(config.architecture, config.architecture) in COMPARED_ROWS
    return COMPARED if known and version == _NOW else ""


_AS_IT_IS = "choose another `--image` or `--vllm-version`, or let vLLM read the checkpoint itself: `--weights plain`"
_OTHERWISE = "build it with `--target inductor`"


def _refused(config: ModelConfig, reason: str, hint: str) -> RefusedError:
    return RefusedError(f"target `vllm` does not support {config.architecture}: {reason}", hint=hint)
