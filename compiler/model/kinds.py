"""Kinds of the layers of one model: experts or not, sliding window, rotary positions."""

from __future__ import annotations

from compiler.model.config import ConfigMap, LayerKind, Rope, Traits
from compiler.model.places import lookup
from compiler.model.values import Values


def layer_kinds(values: Values, places: ConfigMap, traits: Traits, layers: int) -> tuple[LayerKind, ...]:
    """Kind of each layer, from the lists and thresholds of config.json that the architecture reads.

    `layer_types` (transformers 5) names each layer; older Qwen configs have `use_sliding_window` and the first windowed
    layer (`max_window_layers`); a recipe may state another rule (`Traits.windowed`). Qwen2-MoE names dense layers in
    `mlp_only_layers` and by `decoder_sparse_step`, Llama 4 the others in `moe_layers`; the first layers of DeepSeek are
    dense.
    """
    dense = values.items("mlp_only_layers", places.dense_layers, int) or ()
    sparse = values.items("sparse_layers", places.sparse_layers, int)
    step = values.count("decoder_sparse_step", places.sparse_step) if places.sparse_step else 1
    first = values.count("first_sparse_layer", places.first_sparse_layer) if places.first_sparse_layer else 0
    windows = _windows(values, places, traits, layers)
    ropes = _ropes(values, places, traits, layers)
    kinds = []
    for layer, window in enumerate(windows):
        experts = layer >= first and layer not in dense and (layer + 1) % step == 0
        if sparse is not None:
            experts = layer in sparse
        kinds.append(
            LayerKind(
                mlp=traits.mlp if experts or traits.mlp != "moe" else "gated",
                window=None if traits.chunked else window,
                chunk=window if traits.chunked else None,
                rope=ropes[window is not None][layer],
            )
        )
    return tuple(kinds)


def _windows(values: Values, places: ConfigMap, traits: Traits, layers: int) -> list[int | None]:
    """Sliding window of each layer, None: none."""
    if traits.windowed is not None:
        windowed = traits.windowed.of(values.hf, layers)
        size = values.count("sliding_window", places.sliding_window) if any(windowed) else None
        return [size if one else None for one in windowed]
    full: list[int | None] = [None] * layers
    types = values.items("layer_types", places.layer_types, str)
    if types is not None and len(types) != layers:
        values.wrong("layer_types", places.layer_types, f"{layers} names, one a layer", f"{len(types)} names")
        return full
    if other := sorted(set(types or ()) - {"sliding_attention", "full_attention"}):
        values.wrong("layer_types", places.layer_types, "sliding_attention or full_attention", other[0])
    on = not places.window_switch or values.flag("window_switch", places.window_switch)
    window = lookup(values.hf, places.sliding_window) if on else None
    if window is None:
        if types and "sliding_attention" in types:
            switch = places.window_switch or "sliding_window"
            values.wrong("layer_types", places.layer_types, f"no sliding_attention without `{switch}`", types)
        return full
    window = values.count("sliding_window", places.sliding_window)
    if types is not None:
        return [window if kind == "sliding_attention" else None for kind in types]
    first = values.count("first_windowed", places.first_windowed) if places.first_windowed else 0
    return [window if layer >= first else None for layer in range(layers)]


def _ropes(values: Values, places: ConfigMap, traits: Traits, layers: int) -> dict[bool, list[Rope]]:
    """Rotary positions of each layer, if it has a window (True) and if it has none (False)."""
    windowed: Rope = "main" if lookup(values.hf, places.local_rope_theta) is None else "local"
    if traits.rotated == "windowed":
        return {True: [windowed] * layers, False: ["none"] * layers}
    rotated = (True,) * layers if traits.rotated == "all" else traits.rotated.of(values.hf, layers)
    return {True: [windowed if r else "none" for r in rotated], False: ["main" if r else "none" for r in rotated]}
