"""config.json -> ModelConfig: numbers from the places of a ConfigMap, kinds from the traits of a recipe.

The mapping that is read here has the defaults of the architecture in it already (`Recipe.stated`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from compiler.errors import RefusedError
from compiler.model.config import Activation, ConfigMap, ModelConfig, Traits
from compiler.model.dtypes import DTYPES
from compiler.model.kinds import layer_kinds
from compiler.model.places import Place, lookup
from compiler.model.rope import (
    ORIGINAL,
    RopeScaling,
    flat_rope_parameters,
    read_rope_scaling,
    rope_key,
    rope_section,
    yarn_scale,
)
from compiler.model.values import Values

if TYPE_CHECKING:
    from compiler.model.header import Header


def read_config(
    hf: Mapping[str, Any],
    places: ConfigMap,
    traits: Traits,
    rope_scaling: RopeScaling | None = None,
    *,
    architecture: str = "?",
    stored_dtype: str = "float32",
) -> ModelConfig:
    """ModelConfig from the numbers of config.json at `places` and the kinds of `traits`.

    `rope_scaling`: requested by the user; it must not contradict the checkpoint's. `stored_dtype`: dtype of the
    weights, for a config.json that has none.

    Raises:
        SourceError: values are absent, of the wrong kind, or contradict each other.
        RefusedError: the config needs mathematics that the decoder does not have.
    """
    values = Values(flat_rope_parameters(hf) if places.local_rope_theta else hf)
    sizes = _sizes(values, places, traits)
    flags: dict[str, Any] = {name: values.flag(name, getattr(traits, name)) for name in _FLAGS}
    fields = sizes | flags | _factors(values, places, traits, sizes["hidden"])
    dtype = checkpoint_dtype(values, stored_dtype)
    kinds = layer_kinds(values, places, traits, sizes["layers"])
    values.check()
    fields |= _rope(values, places, traits, sizes, rope_scaling)
    if fields["kv_rank"]:
        fields["attention_scale"] = _latent_scale(values.hf, fields)
    return ModelConfig(
        architecture=architecture,
        dtype=dtype,
        norm=traits.norm,
        activation=_activation(hf, traits),
        position=traits.position,
        rotary=traits.rotary,
        norms=traits.norms,
        parallel_mlp_norm=traits.parallel_mlp_norm,
        qk_norm_over=traits.qk_norm_over,
        head=traits.head,
        head_bias=traits.head_bias,
        embedding_norm=traits.embedding_norm,
        position_offset=traits.position_offset,
        alibi=traits.alibi,
        shared_expert_gate=traits.shared_expert_gate,
        router=traits.router,
        router_bias=traits.router_bias,
        router_float32=traits.router_float32,
        expert_bias=traits.expert_bias,
        sinks=traits.sinks,
        layer_kinds=kinds,
        **fields,
    )


def _sizes(values: Values, places: ConfigMap, traits: Traits) -> dict[str, Any]:
    """Numbers of ModelConfig in config.json, those of experts only where the architecture has some."""
    sizes: dict[str, Any] = {name: values.count(name, getattr(places, name)) for name in _COUNTS}
    moe = traits.mlp == "moe"
    sizes |= {name: values.count(name, getattr(places, name)) if moe else 0 for name in _EXPERT_COUNTS}
    heads, hidden, kv_heads = sizes["heads"], sizes["hidden"], sizes["kv_heads"]
    if lookup(values.hf, places.head_dim) is not None:
        sizes["head_dim"] = values.count("head_dim", places.head_dim)
    else:
        sizes["head_dim"] = max(hidden // heads, 1)
        if hidden % heads:
            values.problems.append(f"head_dim: absent, and hidden {hidden} does not divide by {heads} heads")
    if heads % kv_heads:
        values.wrong("kv_heads", places.kv_heads, f"a divisor of the {heads} heads", kv_heads)
    if sizes["experts_per_token"] > sizes["experts"]:
        values.wrong(
            "experts_per_token", places.experts_per_token, f"at most {sizes['experts']}", sizes["experts_per_token"]
        )
    sizes |= {name: _optional(values, name, getattr(places, name)) for name in _OPTIONAL}
    inside = sizes["experts"] * sizes["expert_groups_used"] // max(sizes["expert_groups"], 1)
    if sizes["expert_groups"] and (sizes["experts"] % sizes["expert_groups"] or sizes["experts_per_token"] > inside):
        expected = f"groups that divide {sizes['experts']} experts, and {sizes['experts_per_token']} in the chosen ones"
        values.wrong("expert_groups", (places.expert_groups, places.expert_groups_used), expected, inside)
    sizes["norm_eps"] = values.real("norm_eps", places.norm_eps, 0, 1)
    if sizes["experts"] and not sizes["moe_ffn"]:
        sizes["moe_ffn"] = sizes["ffn"]  # Mixtral has the width of an expert where others have that of the mlp
    return sizes


def _optional(values: Values, name: str, place: Place) -> int:
    """Whole number at `place`; 0 where it is absent or null, or the architecture has none."""
    return values.count(name, place) if lookup(values.hf, place) is not None else 0


def _latent_scale(hf: Mapping[str, Any], fields: Mapping[str, Any]) -> float:
    """Factor on the scores of latent attention: that of a whole query, times DeepSeek's square of yarn's scale."""
    scaling, section = fields["rope_scaling"], rope_section(hf)
    scale = float((fields["nope_dim"] + fields["rotary_dim"]) ** -0.5)
    if scaling is None or not section.get("mscale_all_dim"):
        return scale
    return scale * yarn_scale(scaling.factor, section["mscale_all_dim"]) ** 2


def _factors(values: Values, places: ConfigMap, traits: Traits, hidden: int) -> dict[str, Any]:
    """Factors and limits of ModelConfig, where the architecture has them."""
    absent: dict[str, float | None] = {
        "embedding_scale": hidden**0.5 if traits.embedding_scale == "sqrt_hidden" else 1.0,
        "logit_scale": 1.0,
        "logit_softcap": 0.0,
        "residual_scale": 1.0,
        "attention_scale": 0.0,
        "attention_softcap": 0.0,
        "clip_qkv": 0.0,
        "local_rope_theta": None,
        "routed_scale": 1.0,
    }
    temperature: dict[str, Any] = {}
    if not isinstance(traits.temperature, bool) and lookup(values.hf, traits.temperature):
        temperature["temperature_floor"] = values.count("temperature_floor", places.temperature_floor)
        scale = places.temperature_scale
        temperature["temperature_scale"] = values.real("temperature_scale", scale, 0, 1e6)
    found = {name: (getattr(places, name), lookup(values.hf, getattr(places, name))) for name in absent}
    return temperature | {
        name: absent[name] if value is None else values.number(name, place, value, 0, 1e12)
        for name, (place, value) in found.items()
    }


_COUNTS = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "max_positions")
_EXPERT_COUNTS = ("experts", "experts_per_token", "moe_ffn", "shared_ffn")
_OPTIONAL = ("expert_groups", "expert_groups_used", "q_rank", "kv_rank", "nope_dim")
_FLAGS = (
    "parallel_residual", "qk_norm", "norm_bias", "qkv_bias", "out_bias", "mlp_bias", "tied", "renormalize_experts",
)  # fmt: skip
"""Traits that config.json may set."""


def checkpoint_dtype(values: Values, stored: str) -> str:
    """`dtype`, or its older spelling `torch_dtype`, without `torch.`; `stored` where config.json has neither."""
    for key in ("dtype", "torch_dtype"):
        found = values.hf.get(key)
        if found is not None:
            if not isinstance(found, str):
                values.wrong("dtype", key, "a name such as bfloat16", found)
            return str(found).removeprefix("torch.")
    return stored


def stored_dtype(headers: Mapping[str, Header]) -> str:
    """Dtype by torch's name of most weights, counted in elements; float64, which no artifact has, counts as float32."""
    elements: Counter[str] = Counter()
    names = {stored: name for name, stored in DTYPES.items()} | {"F64": "float32"}
    for header in headers.values():
        if header.dtype in names:
            elements[names[header.dtype]] += prod(header.shape)
    return max(elements, key=lambda name: elements[name]) if elements else "float32"


def _activation(hf: Mapping[str, Any], traits: Traits) -> Activation:
    known = traits.activations
    name = traits.activation if traits.activation in known else lookup(hf, traits.activation)
    if not isinstance(name, str) or name not in known:
        raise RefusedError(
            f"config.json: `{traits.activation}`: expected one of {', '.join(known)}; found {name!r:.60}",
            hint="add the activation to `compiler/model/config.py` and `compiler/decoder/mlp.py`",
        )
    return known[name]


def _rope(
    values: Values, places: ConfigMap, traits: Traits, sizes: Mapping[str, Any], requested: RopeScaling | None
) -> dict[str, Any]:
    """Fields of rotary positions. Numbers of `rope_scaling` or `rope_parameters` have precedence over those beside it,
    as in transformers 5 and vLLM. Raises SourceError, RefusedError.
    """
    if traits.position != "rope":
        if requested is not None:
            raise RefusedError(
                f"`--rope-scaling` needs rotary positions; this model has {traits.position} positions",
                hint="leave `--rope-scaling` out",
            )
        return {}
    hf, head_dim = values.hf, sizes["head_dim"]
    section = rope_section(hf) if places.rope_section else {}
    theta = section["rope_theta"] if "rope_theta" in section else lookup(hf, places.rope_theta)
    found: dict[str, Any] = {"rope_theta": values.number("rope_theta", places.rope_theta, theta, 1, 1e12)}
    if places.rotary_dim:
        rotary_dim = values.count("rotary_dim", places.rotary_dim)
    else:
        fraction: Any = lookup(hf, places.rotary_fraction) if places.rotary_fraction else 1.0
        if places.rotary_fraction and section.get("partial_rotary_factor") is not None:
            fraction = section["partial_rotary_factor"]
        rotary_dim = int(head_dim * values.number("rotary_fraction", places.rotary_fraction, fraction, 0, 1))
    most = rotary_dim if places.kv_rank else head_dim  # of latent attention, the part that turns is beside the head
    if rotary_dim % 2 or not 2 <= rotary_dim <= most:
        values.problems.append(f"rotary_dim: expected an even number of 2 to {most}, found {rotary_dim}")
    values.check()
    factor: Any = lookup(hf, places.rope_linear) if places.rope_linear else None
    if factor not in (None, 1):
        section = {"rope_type": "linear", "factor": factor}
    original = hf.get(ORIGINAL) if places.rope_section else None
    scaling = read_rope_scaling(section, sizes["max_positions"], original, requested, f"config.json: {rope_key(hf)}")
    for lists in (scaling.short_factors, scaling.long_factors) if scaling else ():
        if lists and len(lists) != rotary_dim // 2:
            values.problems.append(f"rope scaling: expected {rotary_dim // 2} factors, found {len(lists)}")
    if scaling and scaling.kind == "dynamic" and rotary_dim == 2:
        values.problems.append("rotary_dim: dynamic rope scaling needs 4 or more, found 2")
    values.check()
    return {**found, "rotary_dim": rotary_dim, "rope_scaling": scaling}
