"""Sentences about a config.json for the plan: what is assumed, what has no effect, which of two values counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from compiler.model.config import ACTIVATIONS
from compiler.model.places import Constant, Default, Flag, Half, Layers, Place, Power, Times, lookup, paths
from compiler.model.rope import ORIGINAL, flat_rope_parameters, rope_key, rope_section

if TYPE_CHECKING:
    from compiler.model.recipe import Recipe

EFFECTIVE = (
    "sliding_window", "use_sliding_window", "layer_types", "attention_chunk_size", "rope_theta", "rope_scaling",
    "rope_parameters", "partial_rotary_factor", "rotary_pct", "attention_bias", "mlp_bias", "qkv_bias", "use_bias",
    "use_qk_norm", "logit_scale", "logits_scaling", "final_logit_softcapping", "attn_logit_softcapping",
    "query_pre_attn_scalar", "embedding_multiplier", "residual_multiplier", "attention_multiplier", "clip_qkv",
    "num_local_experts", "num_experts", "n_routed_experts", "mlp_only_layers", "no_rope_layers", "alibi",
)  # fmt: skip
"""Keys that change the mathematics of some architecture: one that is there and not read is worth a sentence."""


def config_notes(recipe: Recipe, hf: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences about `hf` (config.json), as the resolved `recipe` reads it. Raises what its `model_config` raises."""
    return tuple(_notes(recipe, hf))


def assumed_text(recipe: Recipe, hf: Mapping[str, Any]) -> str:
    """`config.json lacks rope_theta (10000.0 is assumed)`; nothing if it lacks no key that counts."""
    assumed = [f"{key} ({value!r} is assumed)" for key, value in recipe.assumed(hf).items()]
    return f"config.json lacks {', '.join(assumed)}" if assumed else ""


def keys_read(recipe: Recipe) -> set[str]:
    """Keys at the top of config.json that a recipe reads, or chooses a variant by."""
    places: list[Place] = [value for value in _values(recipe) if isinstance(value, _PLACES)]
    places += [path for value in _values(recipe) if isinstance(value, Layers) for path in value.paths]
    found = {path.partition(".")[0] for place in places for path in paths(place)}
    if recipe.config.rope_section and recipe.traits.position == "rope":
        found |= {"rope_scaling", "rope_parameters"}
    conditions = [*recipe.assumes, *(path for variant in recipe.variants for path in variant.when)]
    found |= {recipe.next_layers} - {""}
    return found | set(recipe.aliases) | {path.partition(".")[0] for path in conditions}


_ROTARY = ("rope_theta", "local_rope_theta", "rope_linear", "rotary_fraction", "rotary_dim")
_PLACES = (str, tuple, Half, Default, Flag, Times, Power, Constant)


def _values(recipe: Recipe) -> Iterator[Any]:
    for part in (recipe.config, recipe.traits):
        for field in fields(part):
            if recipe.traits.position == "rope" or field.name not in _ROTARY:
                yield getattr(part, field.name)


def _notes(recipe: Recipe, hf: Mapping[str, Any]) -> Iterator[str]:
    if assumed := assumed_text(recipe, hf):
        yield f"{assumed}, as in the class of {recipe.architecture(hf)}"
    unread = [key for key in EFFECTIVE if hf.get(key) and key not in keys_read(recipe)]
    if unread:
        named = ", ".join(f"`{key}` {hf[key]!r:.60}" for key in unread)
        yield f"config.json has {named} without effect: {recipe.architecture(hf)} does not read it"
    named = str(lookup(hf, recipe.traits.activation))
    computed = recipe.traits.activations.get(named)
    if computed and ACTIVATIONS.get(named, computed) != computed:
        key, name = recipe.traits.activation, recipe.architecture(hf)
        yield f"`{key}` {named!r} in config.json means {computed}, as in transformers 5 and vLLM: {name} was trained so"
    for counts, other in _doubles(recipe, hf):
        yield f"config.json has two values: {counts} counts, as in transformers 5, not {other}"


def _doubles(recipe: Recipe, hf: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Places and values of what counts, and of what contradicts it."""
    new, old = hf.get("dtype"), hf.get("torch_dtype")
    if new is not None and old is not None and new != old:
        yield f"`dtype` {new!r:.60}", f"`torch_dtype` {old!r:.60}"
    if recipe.traits.position != "rope" or not recipe.config.rope_section:
        return
    scaling, parameters = hf.get("rope_scaling"), hf.get("rope_parameters")
    if scaling and parameters and scaling != parameters:
        yield f"`rope_scaling` {scaling!r:.120}", f"`rope_parameters` {parameters!r:.120}"
    section = rope_section(flat_rope_parameters(hf) if recipe.config.local_rope_theta else hf)
    for key, place in (("rope_theta", recipe.config.rope_theta),
                       ("partial_rotary_factor", recipe.config.rotary_fraction)):  # fmt: skip
        beside = lookup(hf, place)
        if key in section and beside is not None and section[key] != beside and place:
            yield f"`{rope_key(hf)}.{key}` {section[key]!r:.60}", f"`{paths(place)[0]}` {beside!r:.60}"
    within, above = section.get(ORIGINAL), hf.get(ORIGINAL)
    if within is not None and above is not None and within != above:
        yield f"`{ORIGINAL}` {above!r:.60}", f"`{rope_key(hf)}.{ORIGINAL}` {within!r:.60}"
