"""Compiled segments of a model: names and inputs.

    embed   token ids -> x                         once per model
    attn    x -> attention's summand               once per kind of attention (`attn`, `attn-window4096`)
    mlp     x -> the mlp's summand                 once per kind of mlp (`mlp-gated`, `mlp-moe`)
    qkv     x -> projections of q, k and v         once per model, where attention is split (`layer.sums_statistics`):
                                                   `attn` then takes its output
    layer   x -> x after the layer                 instead of attn and mlp, on one rank: once per kind of layer
                                                   (`layer-gated`, `layer-window4096-moe`; see `compiled_whole`)
    head    x -> logits                            once per model

Each is compiled for every phase of `PHASES`. Weights are inputs: a segment serves all layers of its kind and all ranks,
so the number of packages and the time to compile them do not depend on depth. Layers with other products have
segments of their own, whose names end with it (`mlp-gated-grouped`). `input_names` gives the order of inputs,
`compiler.decoder.decoder` their meaning and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from compiler.decoder.layer import alibi_names, sums_statistics, table_names
from compiler.decoder.products import Products, product_at
from compiler.decoder.rankfile.cache_scales import SCALES
from compiler.decoder.rankfile.layout import layouts, with_own_head
from compiler.decoder.rankfile.quantized import stored_weight
from compiler.model.config import LayerKind, ModelConfig
from compiler.model.lazy import whole
from compiler.model.limits import Limits
from compiler.model.parallel import cache_shapes, head_layout
from compiler.model.roles import axis_sizes, norm_before, shape_of
from compiler.quantization.groups import quantized_roles
from compiler.quantization.schemes import FLOAT


@dataclass(frozen=True)
class Phase:
    """Steps of one shape. `batch` (rows) and `length` (tokens per row) are numbers where fixed, None where free."""

    name: str
    batch: int | None
    length: int | None

    def takes(self, batch: int, length: int) -> bool:
        return self.batch in (None, batch) and self.length in (None, length)


PHASES = (
    Phase("decode1", batch=1, length=1),
    Phase("decode", batch=None, length=1),
    Phase("prefill", batch=None, length=None),
)
"""From the narrowest to the widest: a step runs in the first phase that takes it."""


def phase_for(batch: int, length: int) -> str:
    """Phase of a step of `length` tokens in each of `batch` rows."""
    return next(phase.name for phase in PHASES if phase.takes(batch, length))


def segment_names(config: ModelConfig, kind: LayerKind, *, whole: bool = False) -> tuple[str, ...]:
    """Segments of a layer of this kind, in the order of computation. `whole`: as one."""
    if whole:
        return (f"layer{kind.attention.removeprefix('attn')}-{kind.mlp}",)
    return (*(("qkv",) if sums_statistics(config) else ()), kind.attention, f"mlp-{kind.mlp}")


def compiled_whole(config: ModelConfig, tp: int, products: Products) -> bool:
    """Whether layers are compiled as one segment each: on one rank, with one product, and where that makes no more
    segments than attention and mlp on their own.

    Fewer calls are less time between packages, of which a small model's decode step has 2 ms (benchmarks/RESULTS.md).
    """
    if tp > 1 or not isinstance(products, str):
        return False
    apart, together = (
        {name for kind in config.layer_kinds for name in segment_names(config, kind, whole=whole)}
        for whole in (False, True)
    )
    return len(together) <= len(apart)


def are_whole(layers: Sequence[Sequence[str]]) -> bool:
    """Whether `layers`, segments of each layer, were compiled whole."""
    return all(part_of(name) == "layer" for segments in layers for name in segments)


def layer_segments(
    config: ModelConfig, products: Products = FLOAT, *, whole: bool = False
) -> tuple[dict[str, str], ...]:
    """Product of the segments of every layer, by name, in the order of computation. Where layers have products of
    their own, a name ends with it. `whole`: a layer is one segment.
    """
    found = []
    for layer, kind in enumerate(config.layer_kinds):
        names = segment_names(config, kind, whole=whole)
        own = {name: product_at(products, layer, _BLOCKS[part_of(name)]) for name in names}
        named = not isinstance(products, str)
        found.append({f"{name}-{product}" if named else name: product for name, product in own.items()})
    return tuple(found)


_BLOCKS = {"qkv": "attn.", "attn": "attn.", "mlp": "mlp.", "layer": "mlp."}
"""Block of a segment, as roles begin; a whole layer has one product."""


def part_of(segment: str) -> str:
    """Part of the model that a segment computes: embed, qkv, attn, mlp, layer or head."""
    return segment.partition("-")[0]


@dataclass(frozen=True)
class SegmentSpec:
    """Specification of a package, without toolchain and device: equal specs give equal packages.

    `config` has one layer of `kind` (embed and head: none) and no name. `dtype`: torch's name ("bfloat16"). `products`:
    how linear layers are computed, by the name of a `Product` of a number format; FLOAT for embed. `cache`: number
    format of the cache, "" for the dtype of the model.
    """

    segment: str
    phase: str
    config: ModelConfig
    kind: LayerKind | None
    tp: int
    dtype: str
    products: str = FLOAT
    cache: str = ""

    @property
    def name(self) -> str:
        """`segment.phase`: file name of the package without `.pt2`, and its key in the manifest."""
        return f"{self.segment}.{self.phase}"

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.pt2",)

    @property
    def part(self) -> str:
        return part_of(self.segment)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "config": self.config.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SegmentSpec:
        kind = data["kind"]
        changed = {"config": ModelConfig.from_json(data["config"]), "kind": LayerKind(**kind) if kind else None}
        return cls(**{**data, **changed})


def specs(
    config: ModelConfig,
    tp: int,
    dtype: str,
    limits: Limits,
    products: Products = FLOAT,
    cache: str = "",
    head: str = FLOAT,
    *,
    whole: bool = False,
) -> tuple[SegmentSpec, ...]:
    """Specs of all packages of the model. Phases that no step within `limits` runs in are left out. `head`: product of
    the head. `whole`: a layer is one segment (`compiled_whole`).
    """
    config = with_own_head(config, head)
    bare = replace(config, architecture="", layers=0, layer_kinds=(), dtype=dtype)
    kinds: dict[str, tuple[LayerKind | None, str]] = {"embed": (None, FLOAT)}
    for kind, of_layer in zip(config.layer_kinds, layer_segments(config, products, whole=whole), strict=True):
        for name, product in of_layer.items():
            # Layers of equal attention share `attn` whatever their mlp, and layers of equal mlp share `mlp`.
            own = {"qkv": LayerKind("gated"), "attn": replace(kind, mlp="gated"), "mlp": LayerKind(kind.mlp)}
            kinds[name] = own.get(part_of(name), kind), product
    kinds["head"] = None, head
    used = {phase_for(batch, length) for batch in range(1, limits.max_batch + 1) for length in (1, 2)}
    return tuple(
        SegmentSpec(
            segment,
            phase.name,
            replace(bare, layers=1, layer_kinds=(kind,)) if kind else bare,
            kind,
            tp,
            dtype,
            product,
            cache if part_of(segment) in ATTENDING else "",
        )
        for segment, (kind, product) in kinds.items()
        for phase in PHASES
        if phase.name in used
    )


ATTENDING = ("attn", "layer")
"""Parts that read and write the caches."""
_STEP: dict[str, tuple[str, ...]] = {
    "embed": ("token_ids", "vocab_offset"),
    "qkv": ("x",),
    "attn": ("positions", "key_positions"),
    "layer": ("positions", "key_positions"),
    "mlp": ("x",),
    "head": ("x", "last"),
}
"""Inputs that do not come from the checkpoint."""
_ADDED_ONCE = {"attn.o.bias", "mlp.down.bias", "moe.down.bias", "position.weight"}


def input_names(spec: SegmentSpec) -> tuple[str, ...]:
    """Inputs of the segment's package, in order: those of the step, then weights by their names in a layer."""
    weights = weight_shapes(spec)
    names = _STEP[spec.part]
    if spec.part in ATTENDING and spec.kind is not None:
        heads = head_layout(spec.config.heads, spec.config.kv_heads, spec.tp)
        split = spec.part == "attn" and sums_statistics(spec.config)
        names = (*(("qkv", "mean_squares") if split else ("x",)), *names)
        names += tuple(cache_shapes(spec.config, heads))
        names += (*table_names(spec.config, spec.kind), *alibi_names(spec.config))
    if "position.weight" in weights:
        names += ("positions",)
    if _ADDED_ONCE & set(weights):
        names += ("first",)
    return (*names, *weights)


def weight_shapes(spec: SegmentSpec) -> dict[str, tuple[int, ...]]:
    """Weights that the segment reads, in the order of the rank file: name in the layer -> shape on one rank.

    Scales of a quantized layer follow its weight; scales of a quantized cache precede the weight of attn.o.
    """
    config = spec.config
    sizes = axis_sizes(config)
    quantized: tuple[str, ...] = ()
    if spec.products != FLOAT:
        quantized = quantized_roles(config, config.layer_kinds[0]) if config.layer_kinds else ("head",)
    shapes: dict[str, tuple[int, ...]] = {}
    for layout in layouts(config, spec.tp):
        name = layout.name.removeprefix("layers.0.")
        if _reads(spec, name.rpartition(".")[0]):
            if name == "attn.o.weight" and spec.cache:
                kv_heads = head_layout(config.heads, config.kv_heads, spec.tp).kv_heads
                shapes |= dict.fromkeys(SCALES, (kv_heads,))
            inputs = {tensor: whole(str(tensor), shape_of(tensor, sizes), "F32") for tensor in layout.inputs}
            shapes[name] = layout.to_ranks(inputs)[0].shape
            if layout.inputs[0].part == "weight" and layout.inputs[0].role in quantized:
                shapes |= stored_weight(spec.products).shapes(name, shapes[name])
    return shapes


_PROJECTED = ("attn.norm", "attn.qkv")
"""Weights of the projections of attention."""


def _reads(spec: SegmentSpec, role: str) -> bool:
    """Whether the segment reads weights of this role. Norms after sums over ranks belong to no segment but a layer."""
    if role.endswith("post_norm") and spec.part != "layer":
        return False
    match spec.part:
        case "embed":
            return role in ("embed", "position")
        case "qkv":
            return role in _PROJECTED
        case "attn":
            return role.startswith("attn.") and not (sums_statistics(spec.config) and role in _PROJECTED)
        case "mlp":
            return role == norm_before(spec.config, "mlp") or role.startswith(("mlp.", "moe.", "shared."))
        case "layer":
            return role.startswith(("attn.", "mlp.", "moe.", "shared."))
        case _:
            return role in ("final.norm", "head") or (spec.config.tied and role == "embed")
