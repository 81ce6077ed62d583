"""Quantization as requested: a scheme with its flags, the KV cache, a calibration text, the tolerance."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from compiler.errors import UsageError
from compiler.quantization.proof_levels import CPU, STANDARD
from compiler.quantization.schemes import ALPHA_OPTION, AUTO, FLOAT, SCHEMES, SMOOTH, USUAL_GROUP, Scheme
from compiler.quantization.smooth import check_alpha
from compiler.storage.files.digest import Digest

ALPHA = 0.5


@dataclass(frozen=True)
class Text:
    """A calibration text: `file` (or id of a data set, until it is resolved; None: the built-in text), cut into at most
    `samples` samples of at most `length` tokens.

    Set when it is resolved: `name` ("": that of the file), `digest` of the file's bytes, and `size`, an upper bound of
    its characters (None: unknown).
    """

    file: Path | None = None
    samples: int = 512
    length: int = 512
    name: str = ""
    digest: Digest = ""
    size: int | None = 0

    def tokens(self, positions: int) -> int:
        """Upper bound of the tokens for a model with so many positions. A token has at least one byte."""
        most = self.samples * min(self.length, positions)
        return most if self.size is None else min(most, self.size)


@dataclass(frozen=True)
class Quant:
    """A requested quantization. `scheme` None: weights and activations stay in floating point. `alpha` None: searched
    for each group. `cache`, `head`: format of keys and values, and of the head's matrix; "" for the dtype of the model.

    `max_perplexity_increase`: a share, in place of the scheme's tolerance. `accept`: the gate records its figures and
    refuses nothing. `proof`: name in `PROOFS`, how much the gate measures. `group`: requested size of groups; None: the
    widest that the target takes and that divides. `device`: computes calibration and gate.
    """

    scheme: Scheme | None = None
    alpha: float | None = ALPHA
    cache: str = ""
    text: Text = field(default_factory=Text)
    max_perplexity_increase: float | None = None
    accept: bool = False
    proof: str = STANDARD
    group: int | None = None
    head: str = ""
    device: str = CPU

    @property
    def group_size(self) -> int:
        """Neighbors in a row that share a scale in the scheme; 0 without groups."""
        return (self.scheme.group or 0) if self.scheme else 0

    @property
    def requested(self) -> bool:
        return self.scheme is not None or self.cache != "" or self.head != ""

    @property
    def name(self) -> str:
        """All that is quantized: `smoothquant, KV cache int8, head int8`."""
        named = {"": self.scheme.name if self.scheme else "", "KV cache ": self.cache, "head ": self.head}
        return ", ".join(f"{before}{name}" for before, name in named.items() if name)

    @property
    def calibrated(self) -> bool:
        """Whether it needs a calibration text."""
        return (self.scheme is not None and self.scheme.calibrated) or self.cache != ""

    @property
    def mixes(self) -> bool:
        """Whether every part of a layer gets a scheme of its own."""
        return self.scheme is not None and self.scheme.name == AUTO.name

    @property
    def smooths(self) -> bool:
        return self.scheme is not None and self.scheme.search == SMOOTH

    @property
    def decides(self) -> dict[str, Any]:
        """Part of cache keys: the fields that change the bytes of rank files. Groups of the usual size are not named:
        keys are those from before there were others.
        """
        found: dict[str, Any] = {"cache": self.cache} | ({"head": self.head} if self.head else {})
        if self.scheme is not None:
            unnamed = {"tolerance", "parts", *(() if self.scheme.group not in (None, USUAL_GROUP) else ("size",))}
            found |= {name: value for name, value in asdict(self.scheme).items() if name not in unnamed}
        if self.scheme is not None and self.scheme.parts:
            found["parts"] = [[[part.name, part.group] for part in layer] for layer in self.scheme.parts]
        elif self.mixes:
            found["limit"] = self.max_perplexity_increase
        if self.smooths:
            found["alpha"] = "auto" if self.alpha is None else self.alpha
        if self.calibrated:
            found["text"] = [self.text.digest, self.text.samples, self.text.length]
        return found


NONE = Quant()


def scheme_of(name: str, *, per_token: bool | None = None, per_channel: bool | None = None) -> Scheme | None:
    """Scheme `name` ("none": None) with these flags in place of its own; None: its own. Raises UsageError."""
    known = {**SCHEMES, AUTO.name: AUTO}
    if name != "none" and name not in known:
        raise UsageError(f"no quantization scheme is called `{name}`", hint=f"pass `--quant` none, {', '.join(known)}")
    scheme = known.get(name)
    if scheme is None or scheme.activations == FLOAT:
        if per_token is not None or per_channel is not None:
            with_flags = [row.name for row in SCHEMES.values() if row.activations != FLOAT]
            raise UsageError(
                f"`--per-token` and `--per-channel` need a scheme that quantizes activations; found `{name}`",
                hint=f"leave them out, or choose one of {', '.join(with_flags)}",
            )
        return scheme
    if per_token is not None:
        scheme = replace(scheme, activation_scales="token" if per_token else "tensor")
    if per_channel is not None:
        scheme = replace(scheme, weight_scales="channel" if per_channel else "tensor")
    return scheme


def alpha_of(text: str, scheme: Scheme | None) -> float | None:
    """Parse alpha; "auto" is None. Raises UsageError where it is not in [0, 1], or `scheme` does not smooth."""
    if scheme is None or scheme.search != SMOOTH:
        smooth = " or ".join(f"`--quant {row.name}`" for row in SCHEMES.values() if row.search == SMOOTH)
        raise UsageError(
            f"`{ALPHA_OPTION}` needs a scheme with SmoothQuant", hint=f"add {smooth}, or leave the option out"
        )
    if text == "auto":
        return None
    try:
        alpha = float(text)
    except ValueError:
        alpha = float("nan")
    check_alpha(alpha)
    return alpha


def group_of(size: int | None, scheme: Scheme | None) -> int | None:
    """Requested size of groups. Raises UsageError where `scheme` has none."""
    if size is not None and (scheme is None or (scheme.group is None and scheme.name != AUTO.name)):
        grouped = [f"`--quant {row.name}`" for row in SCHEMES.values() if row.group is not None]
        raise UsageError("`--group-size` needs a scheme with one scale per group", hint=f"add {' or '.join(grouped)}")
    return size
