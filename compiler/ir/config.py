"""What the mathematics of a model needs to know, under one set of names.

    config.json  --ConfigMap-->  numbers --+
    recipe       --Traits----->  kinds ----+--> ModelConfig --> plan, decoder, targets, manifest

A `ConfigMap` is data: for each field the place in config.json where the number stands. Hugging Face spells one thing in
several ways, so a place is a dotted path or a tuple of alternatives of which the first one present counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from compiler.errors import RefusedError, SourceError

Norm = Literal["rms", "rms_plus_one", "layer"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
Mlp = Literal["gated", "plain", "moe"]
Position = Literal["rope", "learned", "alibi"]
Rotary = Literal["half", "interleaved"]
Head = Literal["plain", "l2_rows"]

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "swiglu": "silu", "gelu": "gelu", "relu": "relu",
    "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "openai-gelu": "gelu_tanh",
}  # fmt: skip
"""Hugging Face's names. The four tanh approximations are one formula."""


@dataclass(frozen=True)
class Traits:
    """What kind of mathematics an architecture does. A recipe states it; numbers come from config.json.

    A bias trait is `True`, `False`, or a dotted path of config.json that holds the answer.
    """

    norm: Norm = "rms"
    mlp: Mlp = "gated"
    activation: str = "hidden_act"  # a key of ACTIVATIONS, or the path that holds one
    position: Position = "rope"
    rotary: Rotary = "half"
    parallel_residual: bool = False  # attention and mlp read the same normalised input
    qk_norm: bool = False  # RMS norm over head_dim on q and k, before the rotation
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    mlp_bias: bool | str = False
    head: Head = "plain"  # l2_rows: every row of the head counts with length 1
    head_bias: bool = False
    tied: bool | str = "tie_word_embeddings"
    embedding_scale: Literal["none", "sqrt_hidden"] = "none"
    renormalize_experts: bool | str = True  # weights of the chosen experts sum to 1
    shared_expert_gate: bool = False


@dataclass(frozen=True)
class Half:
    """Half of what stands at `path` (Qwen-1 counts gate and up together)."""

    path: str


@dataclass(frozen=True)
class Default:
    """What stands at `path`; where it is absent or null, `value`, or `times` x what stands at another path."""

    path: str
    value: int | float | str | None = None
    times: tuple[int, str] | None = None


@dataclass(frozen=True)
class Flag:
    """`yes` where the flag at `path` is true, otherwise what `no` says (StarCoder's multi_query -> 1 kv head)."""

    path: str
    yes: int
    no: str


Place = str | tuple[str, ...] | Half | Default | Flag


@dataclass(frozen=True)
class ConfigMap:
    """Where each number stands in config.json. The defaults are the spelling that Llama made common."""

    layers: Place = "num_hidden_layers"
    hidden: Place = "hidden_size"
    heads: Place = "num_attention_heads"
    kv_heads: Place = Default("num_key_value_heads", times=(1, "num_attention_heads"))
    head_dim: Place = "head_dim"  # absent: hidden // heads
    ffn: Place = "intermediate_size"
    vocab: Place = "vocab_size"
    norm_eps: Place = "rms_norm_eps"
    max_positions: Place = "max_position_embeddings"
    rope_theta: Place = ("rope_theta", "rope_parameters.rope_theta")
    rotary_fraction: Place = Default("partial_rotary_factor", value=1.0)
    sliding_window: Place = Default("sliding_window")
    experts: Place = Default("num_local_experts", value=0)
    experts_per_token: Place = Default("num_experts_per_tok", value=0)
    moe_ffn: Place = Default("moe_intermediate_size", value=0)
    shared_ffn: Place = Default("shared_expert_intermediate_size", value=0)


@dataclass(frozen=True)
class RopeScaling:
    """Stretching of rotary frequencies to longer contexts.

    linear: every frequency / factor (Chen et al. 2023). llama3: long wavelengths / factor, short ones kept, a ramp
    between `low_freq_factor` and `high_freq_factor` turns within `original_max_positions` (Llama 3.1).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True)
class LayerKind:
    """What may differ between the layers of one model. Layers of equal kind share compiled packages."""

    mlp: Mlp
    window: int | None = None  # positions a query sees, itself included; None: all before it

    @property
    def name(self) -> str:
        return self.mlp if self.window is None else f"{self.mlp}-window{self.window}"


@dataclass(frozen=True)
class ModelConfig:
    """One model: sizes (global, never per rank), kinds, and the dtype its checkpoint is in ("bfloat16", ...)."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    norm_eps: float
    max_positions: int
    dtype: str
    norm: Norm = "rms"
    activation: Activation = "silu"
    position: Position = "rope"
    rotary: Rotary = "half"
    rotary_dim: int = 0
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    parallel_residual: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head: Head = "plain"
    head_bias: bool = False
    tied: bool = False
    embedding_scale: float = 1.0
    experts: int = 0
    experts_per_token: int = 0
    moe_ffn: int = 0
    shared_ffn: int = 0
    renormalize_experts: bool = True
    shared_expert_gate: bool = False
    layer_kinds: tuple[LayerKind, ...] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_json`: what a manifest stores is enough to run the artifact."""
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        if values.get("rope_scaling"):
            values["rope_scaling"] = RopeScaling(**values["rope_scaling"])
        values["layer_kinds"] = tuple(LayerKind(**kind) for kind in values["layer_kinds"])
        return cls(**values)


def read_config(
    hf: Mapping[str, Any], places: ConfigMap, traits: Traits, rope_scaling: RopeScaling | None = None
) -> ModelConfig:
    """Numbers of config.json at `places`, kinds of `traits`.

    `rope_scaling` is the user's wish; it must not contradict one that the checkpoint brings.

    Raises:
        SourceError: a number is absent or not a number.
        RefusedError: the config asks for mathematics that the decoder does not do.
    """
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

    heads, hidden = number("heads"), number("hidden")
    head_dim = lookup(hf, places.head_dim) or (hidden // heads if heads and hidden % heads == 0 else None)
    if head_dim is None:
        missing.append(f"head_dim: absent, and hidden {hidden} does not divide by {heads} heads")
        head_dim = 1
    sizes = {
        name: number(name)
        for name in ("layers", "kv_heads", "ffn", "vocab", "max_positions", "experts", "experts_per_token",
                     "moe_ffn", "shared_ffn")
    }  # fmt: skip
    norm_eps = number("norm_eps", float)
    theta = number("rope_theta", float) if traits.position == "rope" else 10000.0
    rotary_fraction = number("rotary_fraction", float)
    if missing:
        raise SourceError(
            "config.json does not say what this recipe reads from it:\n" + "\n".join(f"  {m}" for m in missing),
            hint="Is this the config.json of the architecture that it names?",
        )
    if sizes["experts"] and not sizes["moe_ffn"]:
        sizes["moe_ffn"] = sizes["ffn"]  # Mixtral spells the width of an expert as that of an mlp
    return ModelConfig(
        architecture=(hf.get("architectures") or ["?"])[0],
        hidden=hidden,
        heads=heads,
        head_dim=int(head_dim),
        norm_eps=norm_eps,
        dtype=checkpoint_dtype(hf),
        norm=traits.norm,
        activation=_activation(hf, traits),
        position=traits.position,
        rotary=traits.rotary,
        rotary_dim=int(head_dim * rotary_fraction) if traits.position == "rope" else 0,
        rope_theta=theta,
        rope_scaling=_rope_scaling(hf, rope_scaling) if traits.position == "rope" else None,
        parallel_residual=traits.parallel_residual,
        qk_norm=traits.qk_norm,
        head=traits.head,
        head_bias=traits.head_bias,
        embedding_scale=hidden**0.5 if traits.embedding_scale == "sqrt_hidden" else 1.0,
        shared_expert_gate=traits.shared_expert_gate,
        layer_kinds=_layer_kinds(hf, places, traits, sizes["layers"]),
        **{
            name: _flag(hf, getattr(traits, name))
            for name in ("qkv_bias", "out_bias", "mlp_bias", "tied", "renormalize_experts")
        },
        **sizes,
    )


def lookup(hf: Mapping[str, Any], place: Place) -> Any:
    """What stands at `place` of config.json, or None."""
    match place:
        case str():
            value: Any = hf
            for key in place.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            return value
        case tuple():
            return next((v for v in (lookup(hf, path) for path in place) if v is not None), None)
        case Half(path):
            value = lookup(hf, path)
            return None if value is None else value // 2
        case Default(path, default, times):
            value = lookup(hf, path)
            if value is not None:
                return value
            if times is None:
                return default
            other = lookup(hf, times[1])
            return None if other is None else times[0] * other
        case Flag(path, yes, no):
            return yes if lookup(hf, path) else lookup(hf, no)


def checkpoint_dtype(hf: Mapping[str, Any]) -> str:
    """`dtype` or its older spelling `torch_dtype`; a config that names none is float32 by Hugging Face's rule."""
    return str(hf.get("dtype") or hf.get("torch_dtype") or "float32").removeprefix("torch.")


def _flag(hf: Mapping[str, Any], trait: bool | str) -> bool:
    return bool(lookup(hf, trait)) if isinstance(trait, str) else trait


def _activation(hf: Mapping[str, Any], traits: Traits) -> Activation:
    name = traits.activation if traits.activation in ACTIVATIONS else lookup(hf, traits.activation)
    if name not in ACTIVATIONS:
        raise RefusedError(
            f"the activation function is one of {', '.join(ACTIVATIONS)}; config.json says {name!r}",
            hint="An activation is added in `compiler/ir/config.py` and `compiler/decoder/mlp.py`.",
        )
    return ACTIVATIONS[name]


def _rope_scaling(hf: Mapping[str, Any], wish: RopeScaling | None) -> RopeScaling | None:
    found = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind == "default":
        return wish
    if kind not in ("linear", "llama3"):
        raise RefusedError(
            f"rope scaling is one of linear, llama3; this checkpoint uses {kind!r}",
            hint="A checkpoint of the same model without it (the base context length) can be built.",
        )
    try:
        scaling = RopeScaling(
            kind="linear" if kind == "linear" else "llama3",
            factor=float(found["factor"]),
            low_freq_factor=float(found.get("low_freq_factor", 1.0)),
            high_freq_factor=float(found.get("high_freq_factor", 4.0)),
            original_max_positions=int(found.get("original_max_position_embeddings", 8192)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"config.json: rope scaling {found!r} is incomplete: {error}") from error
    if wish is not None and wish != scaling:
        raise RefusedError(
            f"the checkpoint was trained with rope scaling {scaling.kind}:{scaling.factor:g}, "
            f"`--rope-scaling` asks for {wish.kind}:{wish.factor:g}",
            hint="Leave `--rope-scaling` out: the checkpoint's own is used.",
        )
    return scaling


def parse_rope_scaling(text: str) -> RopeScaling:
    """`linear:2`, `llama3:8`, or `llama3:8:1:4:8192` (factor, low, high, original positions)."""
    kind, _, rest = text.partition(":")
    numbers = rest.split(":") if rest else []
    try:
        if kind not in ("linear", "llama3") or not 1 <= len(numbers) <= (4 if kind == "llama3" else 1):
            raise ValueError
        factor, *more = (float(n) for n in numbers)
        if factor < 1:
            raise ValueError
        scaling = RopeScaling(kind="llama3" if kind == "llama3" else "linear", factor=factor)
        names = ("low_freq_factor", "high_freq_factor", "original_max_positions")
        changes: dict[str, Any] = dict(zip(names, more, strict=False))
        if "original_max_positions" in changes:
            changes["original_max_positions"] = int(changes["original_max_positions"])
        return replace(scaling, **changes)
    except ValueError:
        raise RefusedError(
            "`--rope-scaling` is `linear:FACTOR` or `llama3:FACTOR[:LOW:HIGH:ORIGINAL]` with FACTOR >= 1; "
            f"found `{text}`"
        ) from None


def _layer_kinds(hf: Mapping[str, Any], places: ConfigMap, traits: Traits, layers: int) -> tuple[LayerKind, ...]:
    """One kind per layer, from the lists and thresholds by which configs tell layers apart.

    `layer_types` (transformers 5) names each layer; older Qwen configs say `use_sliding_window` and from which layer on
    (`max_window_layers`). Qwen2-MoE names dense layers in `mlp_only_layers` and by `decoder_sparse_step`.
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


assert set(ACTIVATIONS.values()) == set(get_args(Activation))
