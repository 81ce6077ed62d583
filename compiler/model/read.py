"""config.json -> ModelConfig: numbers from the places of a ConfigMap, kinds from the traits of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compiler.errors import RefusedError, SourceError
from compiler.model.config import ACTIVATIONS, Activation, Answer, ConfigMap, LayerKind, ModelConfig, Traits
from compiler.model.places import lookup
from compiler.model.rope import RopeScaling, read_rope_scaling


def read_config(
    hf: Mapping[str, Any], places: ConfigMap, traits: Traits, rope_scaling: RopeScaling | None = None
) -> ModelConfig:
    """ModelConfig from the numbers of config.json at `places` and the kinds of `traits`.

    `rope_scaling`: requested by the user; it must not contradict the checkpoint's.

    Raises:
        SourceError: a number is absent or not a number.
        RefusedError: the config needs mathematics that the decoder does not have.
    """
    sizes = _sizes(hf, places, traits)
    return ModelConfig(
        architecture=(hf.get("architectures") or ["?"])[0],
        dtype=checkpoint_dtype(hf),
        norm=traits.norm,
        activation=_activation(hf, traits),
        position=traits.position,
        rotary=traits.rotary,
        rope_scaling=_rope_scaling(hf, places, traits, rope_scaling),
        norms=traits.norms,
        parallel_mlp_norm=traits.parallel_mlp_norm,
        qk_norm_over=traits.qk_norm_over,
        logit_scale=float(lookup(hf, places.logit_scale) or 1.0),
        head=traits.head,
        head_bias=traits.head_bias,
        embedding_scale=sizes["hidden"] ** 0.5 if traits.embedding_scale == "sqrt_hidden" else 1.0,
        shared_expert_gate=traits.shared_expert_gate,
        router=traits.router,
        router_bias=traits.router_bias,
        router_float32=traits.router_float32,
        expert_bias=traits.expert_bias,
        sinks=traits.sinks,
        layer_kinds=_layer_kinds(hf, places, traits, sizes["layers"]),
        **{name: _flag(hf, getattr(traits, name)) for name in _FLAGS},
        **sizes,
    )


def _sizes(hf: Mapping[str, Any], places: ConfigMap, traits: Traits) -> dict[str, Any]:
    """Numbers of ModelConfig in config.json. Raises SourceError that lists the missing ones."""
    missing: list[str] = []

    def number(name: str, kind: type = int) -> Any:
        value = lookup(hf, getattr(places, name))
        if value is None:
            missing.append(f"{name} (at {getattr(places, name)!r})")
            return kind(1)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            missing.append(f"{name}: expected a number, found {value!r}")
            return kind(1)
        return kind(value)

    sizes = {name: number(name) for name in _COUNTS}
    heads, hidden = sizes["heads"], sizes["hidden"]
    head_dim = lookup(hf, places.head_dim) or (hidden // heads if heads and hidden % heads == 0 else None)
    if head_dim is None:
        missing.append(f"head_dim: absent, and hidden {hidden} does not divide by {heads} heads")
        head_dim = 1
    rotary = traits.position == "rope"
    rotary_dim = lookup(hf, places.rotary_dim) or int(head_dim * number("rotary_fraction", float))
    sizes |= {
        "head_dim": int(head_dim),
        "norm_eps": number("norm_eps", float),
        "rope_theta": number("rope_theta", float) if rotary else 10000.0,
        "rotary_dim": rotary_dim if rotary else 0,
    }
    if missing:
        raise SourceError(
            "config.json lacks numbers that this recipe reads:\n" + "\n".join(f"  {m}" for m in missing),
            hint="check that this is the config.json of the architecture that it names",
        )
    if sizes["experts"] and not sizes["moe_ffn"]:
        sizes["moe_ffn"] = sizes["ffn"]  # Mixtral has the width of an expert where others have that of the mlp
    return sizes


_COUNTS = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "max_positions", "experts", "experts_per_token",
           "moe_ffn", "shared_ffn")  # fmt: skip
_FLAGS = (
    "parallel_residual", "qk_norm", "norm_bias", "qkv_bias", "out_bias", "mlp_bias", "tied", "renormalize_experts",
)  # fmt: skip
"""Traits that config.json may set."""


def checkpoint_dtype(hf: Mapping[str, Any]) -> str:
    """Dtype of a checkpoint: `dtype` or its older spelling `torch_dtype`; float32 by default, as in Hugging Face."""
    return str(hf.get("dtype") or hf.get("torch_dtype") or "float32").removeprefix("torch.")


def _flag(hf: Mapping[str, Any], answer: Answer) -> bool:
    return answer if isinstance(answer, bool) else bool(lookup(hf, answer))


def _activation(hf: Mapping[str, Any], traits: Traits) -> Activation:
    name = traits.activation if traits.activation in ACTIVATIONS else lookup(hf, traits.activation)
    if name not in ACTIVATIONS:
        raise RefusedError(
            f"the activation function is one of {', '.join(ACTIVATIONS)}; config.json has {name!r}",
            hint="add the activation to `compiler/model/config.py` and `compiler/decoder/mlp.py`",
        )
    return ACTIVATIONS[name]


def _rope_scaling(
    hf: Mapping[str, Any], places: ConfigMap, traits: Traits, requested: RopeScaling | None
) -> RopeScaling | None:
    if traits.position == "rope":
        return read_rope_scaling(hf, places.rope_linear, requested)
    if requested is not None:
        raise RefusedError(
            f"`--rope-scaling` needs rotary positions; this model has {traits.position} positions",
            hint="leave `--rope-scaling` out",
        )
    return None


def _layer_kinds(hf: Mapping[str, Any], places: ConfigMap, traits: Traits, layers: int) -> tuple[LayerKind, ...]:
    """Kind of each layer, from lists and thresholds of config.json.

    `layer_types` (transformers 5) names each layer; older Qwen configs have `use_sliding_window` and the first windowed
    layer (`max_window_layers`). Qwen2-MoE names dense layers in `mlp_only_layers` and by `decoder_sparse_step`.
    """
    window = lookup(hf, places.sliding_window)
    types = hf.get("layer_types")
    if hf.get("use_sliding_window", True) is False:
        window = None
    first_windowed = hf.get("max_window_layers", 0) if "use_sliding_window" in hf else 0
    dense = set(hf.get("mlp_only_layers") or ())
    step = hf.get("decoder_sparse_step") or 1
    kinds = []
    for layer in range(layers):
        windowed = types[layer] == "sliding_attention" if types else layer >= first_windowed
        sparse = traits.mlp == "moe" and layer not in dense and (layer + 1) % step == 0
        kinds.append(
            LayerKind(
                mlp=traits.mlp if sparse or traits.mlp != "moe" else "gated",
                window=window if windowed else None,
            )
        )
    return tuple(kinds)
