"""Configuration of a model: sizes, and the kinds of its mathematics.

    config.json  --ConfigMap-->  numbers --+
    recipe       --Traits----->  kinds ----+--> ModelConfig --> plan, decoder, targets, manifest      (model/read.py)

A `ConfigMap` has the place of each number in config.json (`compiler.model.places`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, get_args

from compiler.errors import ArtifactError
from compiler.model.identity import changed_fields
from compiler.model.places import Default, Layers, Place
from compiler.model.rope import RopeScaling

Norm = Literal["rms", "rms_float32", "rms_plus_one", "layer"]
Norms = Literal["before", "after", "both"]
QkNorm = Literal["head_dim", "per_head", "all_heads", "rotated"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "clamped_swiglu"]
Mlp = Literal["gated", "plain", "moe"]
Position = Literal["rope", "learned", "alibi"]
Rotary = Literal["half", "interleaved"]
Alibi = Literal["distance", "rounded_keys"]
Head = Literal["plain", "l2_rows"]
Rope = Literal["main", "local", "none"]
Router = Literal["softmax", "corrected_sigmoid", "sigmoid_of_input"]
Answer = bool | str | Default
"""Yes, no, or the place of the answer in config.json, where absent means no."""

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "swiglu": "silu", "gelu": "gelu", "gelu_python": "gelu", "relu": "relu",
    "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "openai-gelu": "gelu_tanh",
    "gelu_accurate": "gelu_tanh", "gelu_python_tanh": "gelu_tanh",
}  # fmt: skip
"""Activations by Hugging Face's names. The tanh approximations are one formula. `clamped_swiglu` has none there: the
recipe of gpt-oss names it.
"""


@dataclass(frozen=True)
class Traits:
    """Kinds of mathematics of an architecture. A recipe states them; numbers come from config.json."""

    norm: Norm = "rms"
    mlp: Mlp = "gated"
    activation: str = "hidden_act"  # a key of `activations`, or its path in config.json
    activations: Mapping[str, Activation] = field(default_factory=lambda: ACTIVATIONS)
    position: Position = "rope"
    rotary: Rotary = "half"
    norm_bias: Answer = True  # layer norms have a bias
    norms: Norms = "before"  # before a block, after its sum over ranks (OLMo-2), or both (Gemma-2)
    parallel_residual: Answer = False  # attention and mlp read the same x
    parallel_mlp_norm: bool = False  # with parallel_residual: the mlp has its own norm (GPT-NeoX)
    qk_norm: Answer = False  # a norm on q and k, before the rotation
    qk_norm_over: QkNorm = "head_dim"  # see ModelConfig.qk_norm_over
    qkv_bias: Answer = False
    out_bias: Answer = False
    mlp_bias: Answer = False
    head: Head = "plain"  # l2_rows: rows of the head are scaled to length 1
    head_bias: bool = False
    tied: Answer = "tie_word_embeddings"
    embedding_scale: Literal["none", "sqrt_hidden"] = "none"
    embedding_norm: bool = False  # a norm between the embedding and the first layer (Bloom)
    position_offset: int = 0  # learned positions: row of position 0 (OPT)
    alibi: Alibi = "distance"  # see ModelConfig.alibi
    windowed: Layers | None = None  # layers with a sliding window; None: see `compiler.model.read`
    chunked: bool = False  # their window is a chunk, see LayerKind.chunk
    temperature: Answer = False  # see ModelConfig.temperature_floor
    rotated: Literal["all", "windowed"] | Layers = "all"  # layers with rotary positions; the others have none
    renormalize_experts: Answer = True  # weights of the chosen experts sum to 1
    shared_expert_gate: bool = False
    router: Router = "softmax"  # see ModelConfig.router
    router_bias: bool = False
    router_float32: bool = False  # the router's product is in float32, whatever the dtype of the model
    expert_bias: bool = False
    sinks: bool = False  # see ModelConfig.sinks


@dataclass(frozen=True)
class ConfigMap:
    """Place of each number in config.json. The defaults are Llama's spelling."""

    layers: Place = "num_hidden_layers"
    hidden: Place = "hidden_size"
    heads: Place = "num_attention_heads"
    kv_heads: Place = Default("num_key_value_heads", times=(1, "num_attention_heads"))
    head_dim: Place = "head_dim"  # absent: hidden // heads
    ffn: Place = "intermediate_size"
    vocab: Place = "vocab_size"
    norm_eps: Place = "rms_norm_eps"
    max_positions: Place = "max_position_embeddings"
    rope_theta: Place = "rope_theta"  # `rope_theta` of the rope section comes first
    rope_section: bool = True  # the architecture reads `rope_scaling` and `rope_parameters`
    local_rope_theta: Place = ()  # rope_theta of layers with a window, where they have their own
    rope_linear: Place = ()  # factor of linear scaling outside the rope section
    rotary_fraction: Place = ()  # (): all of a head; else the section's partial_rotary_factor comes first
    rotary_dim: Place = ()  # absent: head_dim x rotary_fraction
    logit_scale: Place = ()  # factor on the logits
    logit_softcap: Place = ()  # see ModelConfig.logit_softcap
    embedding_scale: Place = ()  # factor on the embedding
    residual_scale: Place = ()  # factor on the output of each block
    attention_scale: Place = ()  # factor on products of q and k; absent: head_dim ** -0.5
    attention_softcap: Place = ()  # see ModelConfig.attention_softcap
    clip_qkv: Place = ()  # see ModelConfig.clip_qkv
    sliding_window: Place = ()  # the following: see `read._windows`; () is not read by the architecture
    window_switch: str = ""
    first_windowed: Place = ()
    layer_types: Place = ()
    dense_layers: Place = ()
    sparse_step: Place = ()
    experts: Place = Default("num_local_experts", value=0)
    experts_per_token: Place = Default("num_experts_per_tok", value=0)
    moe_ffn: Place = Default("moe_intermediate_size", value=0)
    shared_ffn: Place = Default("shared_expert_intermediate_size", value=0)
    expert_groups: Place = ()  # groups of experts
    expert_groups_used: Place = ()  # groups among which a token's experts are
    routed_scale: Place = ()  # factor on the sum of the routed experts
    first_sparse_layer: Place = ()  # layers before it are dense
    sparse_layers: Place = ()  # list of the layers with experts; absent: all but those that other keys call dense
    temperature_floor: Place = ()  # see ModelConfig.temperature_floor
    temperature_scale: Place = ()
    q_rank: Place = ()  # see ModelConfig.kv_rank
    kv_rank: Place = ()
    nope_dim: Place = ()


@dataclass(frozen=True)
class LayerKind:
    """Differences between the layers of one model. Layers of equal kind share compiled packages."""

    mlp: Mlp
    window: int | None = None  # visible positions, the query's included; None: all up to it
    chunk: int | None = None  # positions are visible within runs of this length; None: all up to the query's
    rope: Rope = "main"  # rotary positions by `rope_theta`, by `local_rope_theta`, or none

    @property
    def name(self) -> str:
        return "-".join((self.mlp, *self._attention))

    @property
    def attention(self) -> str:
        """Name of the kind of attention, for layers that share its compiled package: `attn`, `attn-window4096`."""
        return "-".join(("attn", *self._attention))

    @property
    def _attention(self) -> tuple[str, ...]:
        differs = {"window": self.window, "chunk": self.chunk}
        found = tuple(f"{name}{value}" for name, value in differs.items() if value is not None)
        return found if self.rope == "main" else (*found, {"local": "localrope", "none": "nope"}[self.rope])


@dataclass(frozen=True)
class ModelConfig:
    """One model: sizes (global, never per rank), kinds, and the dtype of its checkpoint ("bfloat16", ...).

    `qk_norm_over`, with `qk_norm`: the elements of q (and of k) that one norm covers, and its weight.

        head_dim     each head by itself, one weight [head_dim] for all heads       Qwen3
        per_head     each head by itself, a weight [heads, head_dim]                Command R+
        all_heads    all heads together, a weight [heads, head_dim]                 OLMo-2
        rotated      each head by itself, after its rotation, without a weight      Llama 4

    A softcap c turns x into c * tanh(x / c). `clip_qkv` c limits q, k and v to -c ... c; 0: no limit.

    `alibi`, with positions `alibi`: what is added to the score of a key.

        distance        -slope * distance from the query                                         BLOOM, MPT, Baichuan
        rounded_keys    slope * position of the key / sqrt(head_dim), in bfloat16 up to the division    Falcon-RW

    `router`: scores of the experts of a token, from the router's logits.

        softmax              their softmax. With groups: of the groups with the best expert (DeepSeek-V2)
        corrected_sigmoid    their sigmoid; the choice adds a bias to it. With groups: of the groups whose two best
                             experts have the largest sum (DeepSeek-V3)
        sigmoid_of_input     their sigmoid, which multiplies the input of the chosen experts, not their output (Llama 4)

    `kv_rank` > 0: multi-head latent attention (DeepSeek-V2). Keys and values of all heads are products of one latent
    vector [kv_rank], which is in the cache with one rotated key [rotary_dim] that all heads share. A query and a key
    have `nope_dim` more elements, which do not turn; a value has `head_dim`. Queries come from a latent [q_rank], or,
    with 0, from x itself. `kv_heads` is 1: every rank caches the whole latent.

    `temperature_floor` f > 0: in layers without rotary positions, a query at position p is multiplied by
    1 + `temperature_scale` * ln(1 + floor((p + 1) / f)) (Llama 4, after arXiv 2501.19399).
    """

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
    norm_bias: bool = True
    norms: Norms = "before"
    parallel_mlp_norm: bool = False
    qk_norm_over: QkNorm = "head_dim"
    logit_scale: float = 1.0
    logit_softcap: float = 0.0  # of the logits; 0: none
    residual_scale: float = 1.0  # factor on the sum of a block, before it is added to the residual stream
    clip_qkv: float = 0.0
    local_rope_theta: float | None = None
    embedding_norm: bool = False
    position_offset: int = 0
    alibi: Alibi = "distance"
    attention_scale: float = 0.0  # factor on q . k; 0: 1 / sqrt(head_dim)
    attention_softcap: float = 0.0  # of the scores of attention; 0: none
    sinks: bool = False  # one more score in the softmax of each head, without a value (gpt-oss)
    router: Router = "softmax"
    router_bias: bool = False
    router_float32: bool = False
    expert_bias: bool = False
    expert_groups: int = 0
    expert_groups_used: int = 0
    routed_scale: float = 1.0
    q_rank: int = 0
    kv_rank: int = 0
    nope_dim: int = 0
    temperature_floor: int = 0
    temperature_scale: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON of the fields that differ from their defaults: models that do not use a new field keep their JSON, which
        older versions can read. Defaults are part of the manifest format and never change.
        """
        found = changed_fields(self)
        found["layer_kinds"] = [changed_fields(kind) for kind in self.layer_kinds]
        if self.rope_scaling is not None:
            found["rope_scaling"] = changed_fields(self.rope_scaling)
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any], writer: str = "") -> ModelConfig:
        """Inverse of `to_json`; absent fields have their defaults.

        `writer`: version of lmi-compile that wrote `data`, for the error. Raises ArtifactError for unknown fields:
        ignoring one would compute another model.
        """
        values = _known(cls, data, writer)
        if values.get("rope_scaling"):
            scaling = _known(RopeScaling, values["rope_scaling"], writer)
            lists = {name: tuple(value) for name, value in scaling.items() if isinstance(value, list)}
            values["rope_scaling"] = RopeScaling(**(scaling | lists))
        values["layer_kinds"] = tuple(
            LayerKind(**_known(LayerKind, kind, writer)) for kind in values.get("layer_kinds", ())
        )
        return cls(**values)


def _known(kind: type[Any], data: Mapping[str, Any], writer: str) -> dict[str, Any]:
    """`data` as arguments of the dataclass `kind`. Raises ArtifactError."""
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    if unknown := sorted(data.keys() - known.keys()):
        by = f", written by lmi-compile {writer}," if writer else ""
        raise ArtifactError(
            f"the {kind.__name__} of this artifact{by} has fields unknown to this version: {', '.join(unknown)}",
            hint="upgrade lmi-compile: without them the artifact would compute another model",
        )
    if missing := sorted(name for name, required in known.items() if required and name not in data):
        raise ArtifactError(
            f"the {kind.__name__} of this artifact lacks {', '.join(missing)}",
            hint="copy the artifact again from where it was built, or build it again",
        )
    return dict(data)


assert {*ACTIVATIONS.values(), "clamped_swiglu"} == set(get_args(Activation))
