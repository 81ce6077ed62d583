"""Recipe: names of an architecture's tensors in a Hugging Face checkpoint, and its mathematics. Data only.

    QKV = ("attn.q", "attn.k", "attn.v")
    Map("model.embed_tokens", "embed")                  a stem: .weight, and .bias if the traits have one
    Map(L + "self_attn.W_pack", QKV)                    fused: rows of q, then k, then v
    Map(L + "attention.wqkv", QKV, fused="per_kv_head") q q q q k v, q q q q k v, ...
    Map(L + "attn.c_attn", QKV, layout="in out")        Conv1D: the matrix is stored transposed
    Map(L + "experts.{expert}.w1", "moe.gate")          experts one by one
    Map(L + "experts.w1", "moe.gate", stacked=True)     all experts in one tensor, whose name has no `.weight`
    Map(L + "experts.w13", ("moe.gate", "moe.up"), fused="interleaved", stacked=True)    rows gate, up, gate, up, ...
    Map(L + "attn.sinks", "attn.sinks", bare=True)      a name without `.weight`
    Map(L + "q_norm", "attn.q_heads_norm", layout="axes")    a dimension an axis: [heads, head_dim], not one vector
    Map(L + "q_norm.{head}", "attn.q_heads_norm")    heads one by one: [head_dim] each

`{layer}`, `{expert}` and `{head}` are the only wildcards; a pattern matches a whole name. A recipe has no sizes: they
follow from the axes of the roles. Several Maps may fill one role: a checkpoint uses one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from compiler.errors import RefusedError, SourceError
from compiler.model.config import ConfigMap, ModelConfig, Traits
from compiler.model.places import lookup
from compiler.model.read import read_config
from compiler.model.rope import RopeScaling


@dataclass(frozen=True)
class Map:
    """Mapping of the tensors of one stem to the role or roles that they hold.

    `stacked`: one tensor for all experts, [experts, out, in], called `source`, and its bias `source` + `_bias`, as
    transformers 5 keeps them in memory and saves them with save_original_format=False. `bare`: `source` is
    the whole name.
    """

    source: str
    roles: str | tuple[str, ...]
    fused: Literal["rows", "per_kv_head", "interleaved"] = "rows"
    layout: Literal["out in", "in out", "axes"] = "out in"
    stacked: bool = False
    bare: bool = False

    @property
    def by_expert(self) -> bool:
        """Whether experts are stored one by one."""
        return "{expert}" in self.source

    @property
    def by_head(self) -> bool:
        """Whether heads are stored one by one."""
        return "{head}" in self.source

    @property
    def role_names(self) -> tuple[str, ...]:
        return (self.roles,) if isinstance(self.roles, str) else self.roles


@dataclass(frozen=True)
class Variant:
    """Another model with the same architecture name: its fields replace the recipe's if `when` holds.

    `when` maps paths of config.json to their required value (None: absent) or to a tuple of allowed values; if empty,
    it never holds. `name`: value of `--variant`, for a config.json that does not identify the variant. Several variants
    of one name are alternative conditions.
    """

    name: str
    when: Mapping[str, Any]
    traits: Traits | None = None
    config: ConfigMap | None = None
    weights: tuple[Map, ...] | None = None
    assumes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Recipe:
    """Recipe of one architecture. `models`: Hugging Face id of each name that `--model` takes.

    `assumes` maps paths of config.json to the value that the traits are for (or a tuple of values): a checkpoint with
    another value is refused. An absent value is taken to be the assumed one.

    `defaults` maps the keys that the recipe reads to what their absence means: the defaults of the architecture's
    configuration class. `aliases` maps other spellings of keys to those that the recipe reads. `model_types`: values of
    `model_type` that name the architecture where `architectures` does not. `next_layers`: key with the number of layers
    that predict further tokens (DeepSeek's MTP): they are stored behind the others, and ignored.
    """

    hf_architectures: tuple[str, ...]
    models: Mapping[str, str]
    weights: tuple[Map, ...]
    model_types: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    traits: Traits = field(default_factory=Traits)
    config: ConfigMap = field(default_factory=ConfigMap)
    ignore: tuple[str, ...] = ()
    assumes: Mapping[str, Any] = field(default_factory=dict)
    optional_prefix: str = ""
    variants: tuple[Variant, ...] = ()
    next_layers: str = ""

    def resolve(self, hf: Mapping[str, Any], variant: str | None = None) -> Recipe:
        """Recipe with the fields of the variant that `hf` (config.json) or `variant` selects.

        Raises:
            RefusedError: no variant is called `variant`.
        """
        names = {v.name for v in self.variants}
        if variant is not None and variant not in names:
            raise RefusedError(
                f"`--variant` is one of {', '.join(sorted(names)) or 'none'} for this architecture; found `{variant}`",
                hint="Omit `--variant`: config.json identifies the model.",
            )
        for v in self.variants:
            if v.name == variant or (variant is None and v.when and all(_says(hf, *item) for item in v.when.items())):
                return replace(
                    self,
                    weights=v.weights or self.weights,
                    traits=v.traits or self.traits,
                    config=v.config or self.config,
                    assumes=self.assumes if v.assumes is None else v.assumes,
                    variants=(),
                )._without_next_layers(hf)
        return self._without_next_layers(hf)

    def _without_next_layers(self, hf: Mapping[str, Any]) -> Recipe:
        """Recipe that ignores the layers which predict further tokens, if the architecture has some."""
        stated = {**self.defaults, **hf}
        count, layers = stated.get(self.next_layers), lookup(stated, self.config.layers)
        if type(count) is not int or type(layers) is not int or count < 1:
            return self
        more = tuple(f"model.layers.{layers + i}.*" for i in range(min(count, 8)))
        return replace(self, ignore=(*self.ignore, *more))

    def stated(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """config.json with the defaults of the architecture. Raises SourceError for one key in two spellings."""
        found = dict(hf)
        for alias, key in self.aliases.items():
            if alias in hf and found.setdefault(key, hf[alias]) != hf[alias]:
                raise SourceError(
                    f"config.json: `{key}` is {hf[key]!r:.60}, and `{alias}`, its other name, {hf[alias]!r:.60}",
                    hint="remove the wrong one",
                )
        if any(found.get(key) for key in _ROPE):
            return {**self.defaults, **found}
        return {**self.defaults, **{key: value for key, value in found.items() if key not in _ROPE}}

    def assumed(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """Keys that config.json lacks, and the defaults of the architecture that count instead."""
        named = {*hf, *(key for alias, key in self.aliases.items() if alias in hf)}
        if any(hf.get(key) for key in _ROPE):
            named |= set(_ROPE)
        sections = (hf[key] for key in _ROPE if isinstance(hf.get(key), Mapping))
        if any("rope_theta" in section for section in sections):
            named.add("rope_theta")
        return {key: value for key, value in self.defaults.items() if key not in named}

    def architecture(self, hf: Mapping[str, Any]) -> str:
        """Name in `architectures` that this recipe reads; without one, the first there, or else of the recipe."""
        named = [hf["architectures"]] if isinstance(hf.get("architectures"), str) else hf.get("architectures")
        names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
        read = (name if name in self.hf_architectures else self.base_classes.get(name) for name in names)
        return next((name for name in read if name), (*names, *self.hf_architectures)[0])

    @property
    def base_classes(self) -> dict[str, str]:
        """Names of the models without a head, and of those with one: a model saved by AutoModel names the first."""
        models = [name for name in self.hf_architectures if name.endswith("ForCausalLM")]
        return {f"{name.removesuffix('ForCausalLM')}Model": name for name in models}

    def model_config(
        self, hf: Mapping[str, Any], rope_scaling: RopeScaling | None = None, stored_dtype: str = "float32"
    ) -> ModelConfig:
        """Config of a model: numbers of `hf` (config.json), kinds of this recipe. `stored_dtype`: dtype of the weights,
        which counts where config.json has none. Raises what `read_config` raises.
        """
        others = [
            f"{path} {value!r}, found {lookup(hf, path)!r:.60}"
            for path, value in self.assumes.items()
            if lookup(hf, path) is not None and not _says(hf, path, value)
        ]
        if others:
            variants = ", ".join(sorted({v.name for v in self.variants}))
            raise RefusedError(
                f"config.json describes another model than this recipe: expected {'; expected '.join(others)}",
                hint=f"If it is one of {variants}, pass `--variant`." if variants else "no recipe reads this model",
            )
        return read_config(
            self.stated(hf),
            self.config,
            self.traits,
            rope_scaling,
            architecture=self.architecture(hf),
            stored_dtype=stored_dtype,
        )

    @cached_property
    def base_prefix(self) -> str:
        """Prefix of all names but the head's, such as `model.`. The base model saved by itself lacks it, and so do
        many published checkpoints; transformers reads both (`base_model_prefix` of its classes).
        """
        first = {m.source.partition(".")[0] for m in self.weights if m.role_names != ("head",)}
        return self.optional_prefix or (f"{first.pop()}." if len(first) == 1 else "")

    @cached_property
    def patterns(self) -> tuple[tuple[re.Pattern[str], Map], ...]:
        return tuple(
            (re.compile(self._with_prefix(m.source, _regex) + _PARTS[m.stacked or m.bare]), m) for m in self.weights
        )

    @cached_property
    def ignored(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(self._with_prefix(pattern, _glob)) for pattern in self.ignore)

    def _with_prefix(self, source: str, regex: Callable[[str], str]) -> str:
        """Regular expression of a source with and without the prefix of the base model."""
        prefix = self.base_prefix
        return (f"(?:{re.escape(prefix)})?" if prefix else "") + regex(source.removeprefix(prefix))


_ROPE = ("rope_scaling", "rope_parameters")
"""Keys of the rope section, of which the first that is not empty counts, as in transformers 5."""


def _says(hf: Mapping[str, Any], path: str, expected: Any) -> bool:
    found = lookup(hf, path)
    return found in expected if isinstance(expected, tuple) else bool(found == expected)


_PARTS = {False: r"\.(?P<part>weight|bias)", True: r"(?:_(?P<part>bias))?"}
"""Regular expression of the end of a name, by `Map.stacked` or `bare`; without a part it is a weight."""


def _glob(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*")


def _regex(source: str) -> str:
    text = re.escape(source)
    for wildcard in ("layer", "expert", "head"):
        text = text.replace(rf"\{{{wildcard}\}}", rf"(?P<{wildcard}>\d+)")
    return text
