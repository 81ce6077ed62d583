"""Table of the architectures that TensorRT-LLM supports; no other file of this target names architectures.

A row's `names` are pairs (first version, architecture string in its config.json from then on). Versions before 0.12
have one string for a family (`GPTForCausalLM`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compiler.errors import RefusedError
from compiler.model.config import ModelConfig, Norm, Position
from compiler.targets.trtllm.version import Version, show

Biases = tuple[bool, bool, bool]
NONE: Biases = (False, False, False)


@dataclass(frozen=True)
class From:
    """Value of a config.json key: a field of ModelConfig, times `times`."""

    name: str
    times: int = 1


@dataclass(frozen=True)
class Case:
    """Value of a config.json key: that of the first entry whose fields equal ModelConfig's; {} always matches."""

    cases: tuple[tuple[Mapping[str, Any], str], ...]


Value = bool | int | float | str | None | From | Case


@dataclass(frozen=True)
class ArchitectureRow:
    """Architecture in TensorRT-LLM. `biases`: allowed (qkv, attention output, mlp). `fused_mlp`: gate and up are one
    matrix (`mlp.fc` = [up ; gate]).

    `zero_bias_off_first`: biases of row-parallel products are zero except on rank 0 (attention and mlp share one sum).
    `smooth_quant`: TensorRT-LLM has a SmoothQuant class for the model.
    """

    names: tuple[tuple[Version, str], ...]
    extras: Mapping[str, Value]
    norm: Norm = "rms"
    positions: tuple[Position, ...] = ("rope",)
    biases: tuple[Biases, ...] = (NONE,)
    partial_rotary: bool = False
    rope_scaling: bool = True
    fused_mlp: bool = False
    parallel_residual: bool = False
    zero_bias_off_first: bool = False
    pp: bool = True
    smooth_quant: bool = True
    ffn_times_hidden: int | None = None  # the only width of the model class
    sizes: Mapping[str, Value] = field(default_factory=dict)  # values that replace those of common keys


V8, V9, V10, V11, V12, V20 = ((0, minor, 0) for minor in (8, 9, 10, 11, 12, 20))

_LLAMA: Mapping[str, Value] = {
    "attn_bias": From("qkv_bias"),
    "mlp_bias": From("mlp_bias"),
    "rotary_base": From("rope_theta"),
    "residual_mlp": False,
    "disable_weight_only_quant_plugin": False,
}
_LLAMA_BIASES = (NONE, (True, True, False), (True, True, True), (False, False, True))


def _qwen(kind: str) -> Mapping[str, Value]:
    return {
        "qwen_type": kind,
        "attn_bias": From("qkv_bias"),
        "mlp_bias": False,
        "rotary_base": From("rope_theta"),
        "seq_length": From("max_positions"),
        "use_logn_attn": False,
        "disable_weight_only_quant_plugin": False,
        "num_labels": 1,
    }


def _gpt(variant: str, **more: Value) -> Mapping[str, Value]:
    return {
        "gpt_variant": variant,
        "bias": From("out_bias"),
        "q_scaling": 1,
        "embedding_scale": None,
        "apply_query_key_layer_scaling": False,
        "rotary_pct": 1.0,
        "inner_layernorm": False,
        "norm_before_bmm1": False,
        **more,
    }


_QKV: Biases = (True, False, False)
_ALL: Biases = (True, True, True)

ROWS: Mapping[str, ArchitectureRow] = {
    "LlamaForCausalLM": ArchitectureRow(((V8, "LlamaForCausalLM"),), _LLAMA, biases=_LLAMA_BIASES),
    "MistralForCausalLM": ArchitectureRow(((V8, "MistralForCausalLM"),), _LLAMA),
    "MixtralForCausalLM": ArchitectureRow(((V8, "MixtralForCausalLM"),), _LLAMA, smooth_quant=False),
    "InternLMForCausalLM": ArchitectureRow(((V8, "InternLMForCausalLM"),), _LLAMA, biases=_LLAMA_BIASES),
    "InternLM2ForCausalLM": ArchitectureRow(
        ((V11, "InternLM2ForCausalLM"),), _LLAMA, biases=_LLAMA_BIASES, smooth_quant=False
    ),
    # The model halves intermediate_size: Qwen's own config counts gate and up together.
    "QWenLMHeadModel": ArchitectureRow(
        ((V9, "QWenForCausalLM"),), _qwen("qwen"), biases=(_QKV,), sizes={"intermediate_size": From("ffn", 2)}
    ),
    "Qwen2ForCausalLM": ArchitectureRow(
        ((V9, "QWenForCausalLM"), (V12, "Qwen2ForCausalLM")), _qwen("qwen2"), biases=(_QKV,)
    ),
    "Qwen2MoeForCausalLM": ArchitectureRow(
        ((V10, "QWenForCausalLM"), (V12, "Qwen2MoeForCausalLM")),
        {
            **_qwen("qwen2_moe"),
            "moe_intermediate_size": From("moe_ffn"),
            "moe_shared_expert_intermediate_size": From("shared_ffn"),
        },
        biases=(_QKV,),
        smooth_quant=False,
        sizes={"intermediate_size": From("ffn")},
    ),
    "Qwen3ForCausalLM": ArchitectureRow(((V20, "Qwen3ForCausalLM"),), _qwen("qwen3")),
    "GPT2LMHeadModel": ArchitectureRow(
        ((V9, "GPTForCausalLM"), (V12, "GPT2LMHeadModel")),
        _gpt("gpt2"),
        norm="layer",
        positions=("learned",),
        biases=(_ALL,),
    ),
    "GPT2LMHeadCustomModel": ArchitectureRow(
        ((V9, "GPTForCausalLM"), (V12, "GPT2LMHeadCustomModel")),
        _gpt("santacoder"),
        norm="layer",
        positions=("learned",),
        biases=(_ALL,),
        smooth_quant=False,
    ),
    "GPTBigCodeForCausalLM": ArchitectureRow(
        ((V9, "GPTForCausalLM"), (V12, "GPTBigCodeForCausalLM")),
        _gpt("starcoder"),
        norm="layer",
        positions=("learned",),
        biases=(_ALL,),
        smooth_quant=False,
    ),
    "Starcoder2ForCausalLM": ArchitectureRow(
        ((V9, "GPTForCausalLM"), (V12, "Starcoder2ForCausalLM")),
        _gpt("starcoder2", rotary_base=From("rope_theta")),
        norm="layer",
        biases=(_ALL, NONE),
        smooth_quant=False,
    ),
    "GPTJForCausalLM": ArchitectureRow(
        ((V8, "GPTJForCausalLM"),),
        {"rotary_dim": From("rotary_dim")},
        norm="layer",
        biases=((False, False, True),),
        partial_rotary=True,
        rope_scaling=False,
        parallel_residual=True,
        zero_bias_off_first=True,
        ffn_times_hidden=4,
    ),
    "ChatGLMModel": ArchitectureRow(
        ((V8, "ChatGLMForCausalLM"),),
        {
            # Versions 2 and 3 extend the context in different ways; GLM-4 has the large vocabulary.
            "chatglm_version": Case((
                ({"vocab": 151552}, "glm4"),
                ({"rope_scaling_kind": "linear"}, "chatglm2"),
                ({"max_positions": 32768, "rope_theta": 10000.0}, "chatglm2"),
                ({}, "chatglm3"),
            )),
            "add_bias_linear": From("out_bias"),
            "add_qkv_bias": From("qkv_bias"),
            "apply_query_key_layer_scaling": False,
            "apply_residual_connection_post_layernorm": False,
            "rmsnorm": True,
            "rotary_pct": 0.5,
            "rotary_base": From("rope_theta"),
        },
        biases=(_QKV, NONE, _ALL),
        partial_rotary=True,
        fused_mlp=True,
        pp=False,
        smooth_quant=False,
    ),
    "BaichuanForCausalLM": ArchitectureRow(
        ((V8, "BaichuanForCausalLM"),),
        {
            "model_version": Case((
                ({"position": "rope", "head": "plain"}, "v1_7b"),
                ({"position": "alibi", "head": "plain"}, "v1_13b"),
                ({"position": "rope", "head": "l2_rows"}, "v2_7b"),
                ({"position": "alibi", "head": "l2_rows"}, "v2_13b"),
            )),
        },
        positions=("rope", "alibi"),
        rope_scaling=False,
        pp=False,
    ),
    "Phi3ForCausalLM": ArchitectureRow(
        ((V12, "Phi3ForCausalLM"),),
        {"rotary_base": From("rope_theta")},
        rope_scaling=False,
        fused_mlp=True,
        smooth_quant=False,
    ),
    "GemmaForCausalLM": ArchitectureRow(
        ((V9, "GemmaForCausalLM"),), {"rotary_base": From("rope_theta")}, norm="rms_plus_one", rope_scaling=False
    ),
}  # fmt: skip
"""Rows by the architecture string of Hugging Face's config.json."""

ALIASES = {
    "BaiChuanForCausalLM": "BaichuanForCausalLM",
    "ChatGLMForConditionalGeneration": "ChatGLMModel",
    "GlmForCausalLM": "ChatGLMModel",  # GLM-4 under the names of transformers
    "QwenForCausalLM": "QWenLMHeadModel",
}
"""Other spellings of architecture strings in checkpoints."""

WITHOUT: Mapping[str, str] = {
    "Qwen3MoeForCausalLM": "the normalization of its router in TensorRT-LLM is not verified",
    "DeepseekV2ForCausalLM": "its latent attention and its groups of experts have no judge here",
    "DeepseekV3ForCausalLM": "its latent attention and its groups of experts have no judge here",
    "GptOssForCausalLM": "only its PyTorch backend runs attention sinks, which needs no engine",
    "Llama4ForCausalLM": "only its PyTorch backend runs attention in chunks, which needs no engine",
    "GPTNeoXForCausalLM": "the layout of its checkpoint is not verified",
    "Gemma2ForCausalLM": "the judge computes neither softcaps nor norms after blocks",
}
"""Architectures that TensorRT-LLM supports and this target does not, with the reason."""


def row_for(config: ModelConfig, version: Version) -> tuple[ArchitectureRow, str]:
    """Row of a model, and its architecture string for `version`.

    Raises:
        RefusedError: there is no row, or the version does not support the architecture yet.
    """
    found = ROWS.get(ALIASES.get(config.architecture, config.architecture))
    if found is None:
        reason = WITHOUT.get(config.architecture, "this target has no row for it")
        raise RefusedError(
            f"target `trtllm` does not support {config.architecture}: {reason}",
            hint=f"It supports {', '.join(ROWS)}.",
        )
    names = [name for first, name in found.names if first <= version]
    if not names:
        raise RefusedError(
            f"TensorRT-LLM supports {config.architecture} from {show(found.names[0][0])} on; found {show(version)}",
            hint="Pass a later `--trtllm-version`, or an `--image` with one.",
        )
    return found, names[-1]


def value_of(value: Value, config: ModelConfig) -> Any:
    """Value of a row's entry for this model."""
    match value:
        case From(name, times):
            number = getattr(config, name)
            return number if times == 1 else number * times
        case Case(cases):
            return next((text for when, text in cases if _holds(when, config)), None)
        case _:
            return value


def _holds(when: Mapping[str, Any], config: ModelConfig) -> bool:
    scaling = config.rope_scaling
    facts = {"rope_scaling_kind": scaling.kind if scaling else None}
    return all((facts[key] if key in facts else getattr(config, key)) == wanted for key, wanted in when.items())
