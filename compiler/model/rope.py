"""Scaling of rotary positions to longer contexts, from config.json or from `--rope-scaling`.

Keys and their meaning are those of transformers 5 (modeling_rope_utils.py): `rope_type` or `type`, and the numbers
below. The mathematics is in `compiler.decoder.rotary`.

    kind        numbers that it needs            and may have
    linear      factor                                                                  Chen et al. 2023
    dynamic     factor                                                                  NTK by length, /u/emozilla 2023
    llama3      factor, low_freq_factor,         original_max_position_embeddings       Llama 3.1
                high_freq_factor
    yarn        factor                           original_..., attention_factor,        Peng et al. 2023
                                                 beta_fast, beta_slow, truncate,
                                                 mscale, mscale_all_dim
    longrope    short_factor, long_factor        original_..., factor,                  Ding et al. 2024
                                                 attention_factor

An absent original_max_position_embeddings is the model's max_position_embeddings; one at the top of config.json has
precedence, as in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isclose, isfinite, log, sqrt
from typing import Any, Literal, get_args

from compiler.errors import RefusedError, SourceError

RopeKind = Literal["linear", "llama3", "yarn", "longrope", "dynamic"]
KINDS: tuple[RopeKind, ...] = get_args(RopeKind)
NEEDED: Mapping[RopeKind, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
}
"""Keys without which a scaling is incomplete."""
ORIGINAL = "original_max_position_embeddings"
_EXTENDED = {"factor": "factor", ORIGINAL: "original_max_positions", "attention_factor": "attention_factor"}
_LISTS = {"short_factor": "short_factors", "long_factor": "long_factors"}
_READ: Mapping[RopeKind, Mapping[str, str]] = {
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "llama3": {"factor": "factor", "low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor",
               ORIGINAL: "original_max_positions"},
    "yarn": {**_EXTENDED, "beta_fast": "beta_fast", "beta_slow": "beta_slow"},
    "longrope": {**_EXTENDED, **_LISTS},
}  # fmt: skip
"""Keys that a kind reads, with their field of RopeScaling."""
_BY_MODEL = ("factor", "original_max_positions", "attention_factor")
"""Fields that are 0 until the model is known."""
_LENGTH_DECIDES: tuple[RopeKind, ...] = ("longrope", "dynamic")


@dataclass(frozen=True)
class RopeScaling:
    """Scaling of rotary frequencies to longer contexts; see the table above.

    `attention_factor`: factor on cosines and sines; 0: by `factor`. `original_max_positions` 0: the model's own. Both
    are so only in a request (`--rope-scaling`): a ModelConfig has the numbers.

    longrope and dynamic choose their frequencies by the length of the sequence. A compiled artifact has one table, so
    the length of the build decides, as in vLLM: up to `original_max_positions` short factors, or none; above it the
    long factors, or the base for this `length`, for all positions. `length` 0: not yet known, up to the original.
    """

    kind: RopeKind
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    length: int = 0

    @property
    def extended(self) -> bool:
        """Whether the build is longer than the original context, for the kinds whose frequencies depend on it."""
        return self.kind in _LENGTH_DECIDES and self.length > self.original_max_positions

    def base(self, theta: float, rotary_dim: int) -> float:
        """Base of the frequencies: `theta`, raised for the length of the build by dynamic scaling."""
        if self.kind != "dynamic" or not self.extended:
            return theta
        stretch = self.factor * self.length / self.original_max_positions - (self.factor - 1)
        return float(theta * stretch ** (rotary_dim / (rotary_dim - 2)))

    def section(self, theta: float, rotary_dim: int) -> dict[str, Any]:
        """`rope_parameters` with which transformers 5 computes the same at every length of a sequence."""
        if self.kind == "dynamic":
            return {"rope_type": "default", "rope_theta": self.base(theta, rotary_dim)}
        found: dict[str, Any] = {"rope_type": self.kind, "rope_theta": theta}
        for key, name in _READ[self.kind].items():
            value = getattr(self, name)
            found[key] = list(value) if key in _LISTS else value
        if self.kind == "yarn":
            found["truncate"] = self.truncate
        if self.extended:
            found["short_factor"] = found["long_factor"]
        return found


def of_length(scaling: RopeScaling | None, positions: int) -> RopeScaling | None:
    """The scaling of a build for `positions` positions; None where it then has no effect."""
    if scaling is None or scaling.kind not in _LENGTH_DECIDES:
        return scaling
    found = replace(scaling, length=positions)
    return None if scaling.kind == "dynamic" and not found.extended else found


def length_notes(scaling: RopeScaling | None) -> tuple[str, ...]:
    """Sentence for the plan where the length of the build decides the frequencies of short sequences, too."""
    if scaling is None or not scaling.extended:
        return ()
    chosen = "the long factors" if scaling.kind == "longrope" else "the base of this length"
    original = scaling.original_max_positions
    built = f"rope scaling {scaling.kind}: built for {scaling.length} positions, more than the original {original}"
    return (f"{built}: {chosen} at all positions, as in vLLM; `--max-positions {original}` builds for short sequences",)


def rope_section(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """`rope_scaling` of config.json, else `rope_parameters`; empty and null ones count as absent, as in transformers 5.

    Raises SourceError for a value that is not an object, or that has one for each kind of layers.
    """
    for key in ("rope_scaling", "rope_parameters"):
        found = hf.get(key)
        if not found:
            continue
        if not isinstance(found, Mapping):
            raise _wrong(key, "an object or null", found)
        if any(isinstance(value, Mapping) for value in found.values()):
            raise _wrong(key, "numbers for all layers", found)
        return found
    return {}


def rope_key(hf: Mapping[str, Any]) -> str:
    """Key of the section that counts."""
    return "rope_scaling" if hf.get("rope_scaling") else "rope_parameters"


def flat_rope_parameters(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json whose `rope_parameters` are those of full attention.

    Transformers 5 writes parameters by type of layer for models with several; those of sliding attention are then at
    `local_rope_parameters`. Raises RefusedError where these are scaled: the decoder scales full attention alone.
    """
    found = hf.get("rope_parameters")
    if not isinstance(found, Mapping) or not isinstance(found.get("full_attention"), Mapping):
        return hf
    local = found.get("sliding_attention") or {}
    if not isinstance(local, Mapping):
        raise _wrong("rope_parameters.sliding_attention", "an object", local)
    if (local.get("rope_type") or "default") != "default":
        raise RefusedError(
            f"rotary positions of sliding attention are not scaled; config.json has {dict(local)!r:.120}",
            hint="no recipe reads this model",
        )
    return {**hf, "rope_parameters": found["full_attention"], "local_rope_parameters": local}


def read_rope_scaling(
    section: Mapping[str, Any],
    max_positions: int,
    original: Any = None,
    wish: RopeScaling | None = None,
    where: str = "config.json",
) -> RopeScaling | None:
    """Scaling of `section` (see rope_section), else the user's `wish`; None: unscaled.

    `max_positions`: max_position_embeddings; `original`: original_max_position_embeddings at the top of config.json;
    `where`: place of the section in errors.

    Raises:
        SourceError: the scaling in config.json is incomplete, or a value has the wrong kind.
        RefusedError: a kind that the decoder does not support, a longrope factor that contradicts the two lengths, or a
            wish that contradicts the checkpoint.
    """
    if original is not None:
        section = {**section, ORIGINAL: original}
    found = parsed(section, where)
    if found is not None:
        _check_longrope(found, max_positions, where)
        found = _completed(found, max_positions)
    if wish is None:
        return found
    wish = _completed(replace(wish, length=0), max_positions)
    if found is not None and found != wish:
        raise RefusedError(
            f"the checkpoint was trained with rope scaling {found.kind}:{found.factor:g}, "
            f"`--rope-scaling` requests {wish.kind}:{wish.factor:g}",
            hint="Omit `--rope-scaling`: the checkpoint's own is used.",
        )
    return wish


def parsed(section: Mapping[str, Any], where: str) -> RopeScaling | None:
    """Scaling of an object with the keys of `rope_scaling`, without what only the model knows; None: unscaled.

    Raises SourceError, RefusedError.
    """
    kind = _kind(section, where)
    if kind == "default":
        return None
    if kind not in KINDS:
        raise RefusedError(
            f"{where}: rope scaling is one of {', '.join(KINDS)}; found {kind!r}",
            hint="Build a checkpoint of the same model with the base context length, which has no such scaling.",
        )
    lacking = [key for key in NEEDED[kind] if section.get(key) is None]
    if lacking:
        raise SourceError(
            f"{where}: rope scaling {kind!r} is incomplete: it lacks {', '.join(lacking)}",
            hint="complete it as in the model's published config.json",
        )
    values: dict[str, Any] = {name: 0 for name in _READ[kind].values() if name in _BY_MODEL}
    for key, name in _READ[kind].items():
        if section.get(key) is not None:
            values[name] = (_numbers if key in _LISTS else _number)(section, key, where)
    if kind == "yarn":
        values |= _yarn(section, values, where)
    low, high = values.get("low_freq_factor", 0.0), values.get("high_freq_factor", 1.0)
    if high <= low:
        raise _wrong("high_freq_factor", f"more than low_freq_factor {low:g}", high, where)
    return RopeScaling(kind=kind, **values)


def _kind(section: Mapping[str, Any], where: str) -> Any:
    """`rope_type`, or `type` as it was called before. Raises SourceError where both are there and differ."""
    kinds = [section[key] for key in ("rope_type", "type") if key in section]
    if any(not isinstance(kind, str) for kind in kinds) or len(set(kinds)) > 1:
        names = ", ".join(f"{key} {section[key]!r}" for key in ("rope_type", "type") if key in section)
        raise SourceError(
            f"{where}: expected one kind of rope scaling, one of default, {', '.join(KINDS)}; found {names}",
            hint="write `rope_type` alone",
        )
    kind = kinds[0] if kinds else "default"
    # Phi-3 first called its longrope "su", and once "yarn" (transformers, configuration_phi3.py).
    return "longrope" if kind in ("su", "yarn") and "short_factor" in section else kind


def _yarn(section: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`truncate`, and DeepSeek's attention factor: the ratio of two `mscale`s."""
    truncate = section.get("truncate", True)
    if not isinstance(truncate, bool):
        raise _wrong("truncate", "true or false", truncate, where)
    found: dict[str, Any] = {"truncate": truncate}
    if section.get("mscale") and section.get("mscale_all_dim") and not values["attention_factor"]:
        above, below = (
            yarn_scale(values["factor"], _number(section, key, where)) for key in ("mscale", "mscale_all_dim")
        )
        found["attention_factor"] = above / below
    return found


def yarn_scale(factor: float, mscale: float = 1.0) -> float:
    """0.1 x mscale x ln(factor) + 1, and 1 for factors up to 1 (Peng et al. 2023, section 3.4)."""
    return 0.1 * mscale * log(factor) + 1.0 if factor > 1 else 1.0


def _completed(scaling: RopeScaling, max_positions: int) -> RopeScaling:
    """The scaling with the numbers that a request leaves to the model."""
    if scaling.kind == "linear":
        return scaling
    # transformers counts dynamic scaling from max_position_embeddings, whatever the section says.
    original = int(max_positions if scaling.kind == "dynamic" else scaling.original_max_positions or max_positions)
    factor = scaling.factor or max_positions / original
    attention = scaling.attention_factor
    if not attention:
        attention = yarn_scale(factor) if scaling.kind == "yarn" else _longrope_scale(factor, original)
    return replace(scaling, original_max_positions=original, factor=factor, attention_factor=attention)


def _check_longrope(scaling: RopeScaling, max_positions: int, where: str) -> None:
    """Check that `factor` is the ratio of the two lengths, where the attention factor is computed from it.

    Transformers 5 computes it from `factor`, transformers 4 and vLLM from the ratio. Raises RefusedError.
    """
    factor, original = scaling.factor, scaling.original_max_positions
    if scaling.kind != "longrope" or scaling.attention_factor or not factor or not original:
        return
    ratio = max_positions / original
    if isclose(max(factor, 1), max(ratio, 1), rel_tol=1e-6):
        return
    by_factor, by_ratio = (_longrope_scale(value, original) for value in (factor, ratio))
    raise RefusedError(
        f"{where}: longrope's `factor` {factor:g} is not max_position_embeddings / {ORIGINAL} = {max_positions} / "
        f"{original:g} = {ratio:g}: transformers 5 scales attention by the first ({by_factor:.6g}), transformers 4 and "
        f"vLLM by the second ({by_ratio:.6g})",
        hint=f"write the one that the model was trained with as `attention_factor`: {by_factor!r} or {by_ratio!r}",
    )


def _longrope_scale(factor: float, original: int) -> float:
    """Attention factor of longrope (Ding et al. 2024; Phi-3's published code)."""
    return sqrt(1 + log(factor) / log(original)) if factor > 1 and original > 1 else 1.0


def _number(section: Mapping[str, Any], key: str, where: str) -> float:
    value = section[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12 or not isfinite(value):
        raise _wrong(key, "a number above 0", value, where)
    return float(value)


def _numbers(section: Mapping[str, Any], key: str, where: str) -> tuple[float, ...]:
    values = section[key]
    if not isinstance(values, list) or not values:
        raise _wrong(key, "a list of numbers", values, where)
    return tuple(_number({key: value}, key, where) for value in values)


def _wrong(key: str, expected: str, found: object, where: str = "config.json") -> SourceError:
    return SourceError(f"{where}: `{key}`: expected {expected}, found {found!r:.80}", hint=f"correct `{key}`")
